r"""The gates of the rows and of the columns from their strips of means, and their gradients.

With u the convolved strip, normalised over each of four groups of channels,

.. math::
    n = \frac{u - \operatorname{mean} u}{\sigma}, \quad z = w n + b, \quad a = \operatorname{gate} z

the gradients follow from :math:`dz`, that of the gate:

.. math::
    dw = \sum n\, dz, \quad db = \sum dz, \quad
    du = \frac 1 \sigma \bigl(w\, dz - \operatorname{mean}(w\, dz)
    - n \operatorname{mean}(n\, w\, dz)\bigr)

Where both strips are of one length they are channels of one strip (B, 2 C, L), and everything is
done once; else there are two strips, (B, C, H) and (B, C, W).
"""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .plain import convolve

EPS = 1e-5  # of the norms


class Gates(NamedTuple):
    """The gates of a strip and what their gradients take; S is 2 or, of two strips, 1."""

    gate: Tensor  # (B, S C, L)
    normal: Tensor  # (B, S C, L), n
    rstd: Tensor  # (B, 4 S), one over the deviation


def strips_of(rows: Tensor, cols: Tensor) -> List[Tensor]:
    """(B, C, H) and (B, C, W) to the one strip or the two."""
    return [torch.cat([rows, cols], 1)] if rows.size(2) == cols.size(2) else [rows, cols]


def sides(strips: Sequence[Tensor]) -> Sequence[Tensor]:
    """What belongs to the rows (B, C, H) and what to the columns (B, C, W)."""
    return strips[0].chunk(2, 1) if len(strips) == 1 else strips


def strip_gates(strips, kernel, bias, norm_weight, norm_bias, softmax: bool) -> List[Tensor]:
    """The gates of all strips; for the parameters see :class:`.parameters.Parameters`."""
    gates = []
    for strip, weight, shift in zip(strips, *of_strips(strips, norm_weight, norm_bias)):
        u = convolve_sides(strip, kernel, bias)
        z = torch.group_norm(u, groups_of(strips), weight, shift, EPS)
        gates.append(z.softmax(2) if softmax else z.sigmoid_())
    return gates


def gates_and_normals(strips, kernel, bias, norm_weight, norm_bias, softmax: bool) -> List[Gates]:
    """The same, with what the gradients take."""
    found = []
    for strip, weight, shift in zip(strips, *of_strips(strips, norm_weight, norm_bias)):
        u = convolve_sides(strip, kernel, bias)
        normal, _, rstd = torch.native_group_norm(u, None, None, *u.shape, groups_of(strips), EPS)
        z = torch.addcmul(shift.unsqueeze(1), normal, weight.unsqueeze(1))
        found.append(Gates(z.softmax(2) if softmax else z.sigmoid_(), normal, rstd))
    return found


def strips_backward(
    strips, gates: Sequence[Gates], grad_gates, kernel, norm_weight, softmax: bool
) -> Tuple[List[Tensor], ...]:
    """The gradients of the strips, the kernel, its bias, and weight and bias of the norms."""
    grad_strips, grad_kernels, grad_biases, grad_weights, grad_shifts = [], [], [], [], []
    (weights,) = of_strips(strips, norm_weight)
    for strip, (gate, normal, rstd), grad_gate, weight in zip(strips, gates, grad_gates, weights):
        grad_z = gate_backward(grad_gate, gate, 2, softmax)
        grad_weights.append((grad_z * normal).sum((0, 2)))
        grad_shifts.append(grad_z.sum((0, 2)))
        grad_u = norm_backward(grad_z.mul_(weight.unsqueeze(1)), normal, rstd)
        # The gradient of a convolution is one with the reversed kernel: much faster than what
        # PyTorch's CPU library does for it.
        grad_strips.append(convolve_sides(grad_u, kernel.flip(2), None))
        strip, grad_u = apart(strip, kernel), apart(grad_u, kernel)
        grad_kernels.append(kernel_backward(strip, grad_u, kernel.size(2)))
        grad_biases.append(grad_u.sum((0, 2)))
    return (
        grad_strips,
        sum(grad_kernels),
        sum(grad_biases),
        torch.cat(grad_weights),
        torch.cat(grad_shifts),
    )


def convolve_sides(strip: Tensor, kernel: Tensor, bias: Optional[Tensor]) -> Tensor:
    """(B, S C, L) to the same; a strip of one pixel meets the middle of its kernel only."""
    sides = apart(strip, kernel)
    if strip.size(2) == 1:
        center = kernel[:, :, kernel.size(2) // 2]  # (C, 1)
        u = sides * center if bias is None else torch.addcmul(bias.unsqueeze(1), sides, center)
    else:
        u = convolve(sides, kernel, bias).contiguous()
    return u.view(strip.shape)


def apart(strip: Tensor, kernel: Tensor) -> Tensor:
    """(B, S C, L) to (B S, C, L)."""
    return strip.view(-1, kernel.size(0), strip.size(2))


def groups_of(strips: Sequence[Tensor]) -> int:
    """How many groups the norm of a strip has: four for each side."""
    return 8 // len(strips)


def of_strips(strips: Sequence[Tensor], *params: Tensor) -> List[Sequence[Tensor]]:
    """What of (2 C) belongs to each strip."""
    return [param.chunk(2) if len(strips) == 2 else (param,) for param in params]


def gate_backward(d: Tensor, gate: Tensor, dim: int, softmax: bool) -> Tensor:
    """Through a sigmoid, or a softmax along ``dim``."""
    if softmax:
        return gate * (d - (d * gate).sum(dim, keepdim=True))
    return torch.addcmul(gate, gate, gate, value=-1).mul_(d)


def norm_backward(d: Tensor, normal: Tensor, rstd: Tensor) -> Tensor:
    """Through a group norm without parameters."""
    shape = d.shape
    groups = (*rstd.shape, shape[1] * shape[2] // rstd.size(1))
    d, normal = d.view(groups), normal.view(groups)
    slope = (d * normal).mean(2, keepdim=True)
    d = torch.addcmul(d - d.mean(2, keepdim=True), normal, slope, value=-1)
    return d.mul_(rstd.unsqueeze(2)).view(shape)


def kernel_backward(strip: Tensor, grad_u: Tensor, size: int) -> Tensor:
    """The gradient of the (C, 1, K) kernel from (B, C, L): entry t is Σ grad_u[i] strip[i + t].

    A product of all i with all j, summed along diagonals, takes a fifth of the time of PyTorch's
    function on a CPU.
    """
    batch, channels, length = strip.shape
    if length > batch * size:  # a product too large
        return torch.nn.grad.conv1d_weight(
            strip, (channels, 1, size), grad_u, padding=size // 2, groups=channels
        )
    padded = F.pad(strip, [size // 2] * 2)
    product = torch.bmm(grad_u.permute(1, 2, 0), padded.transpose(0, 1))  # (C, L, L + K - 1)
    strides = (length * padded.size(2), padded.size(2) + 1, 1)
    return product.as_strided((channels, length, size), strides).sum(1).unsqueeze(1)

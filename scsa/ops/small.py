r"""What is small, with fast gradients on a CPU: the convolution of the strips, the attention.

These are steps of :mod:`..attention.steps` as autograd functions. Where only the mean over the
tokens is asked for, with :math:`A = \operatorname{softmax}(q k^\top)`, v the mean of the values,
one number a channel, and g the gradient of :math:`a = A v`,

.. math::
    dv = A^\top g, \qquad dq = g \odot (D k), \qquad dk = D^\top (g \odot q), \qquad
    D_{ij} = A_{ij} (v_j - a_i)

so that the matrices are made for some images at a time, as many as a cache holds, and never kept.

With one token :math:`q_i k_j` is a product of two numbers, so that

.. math::
    a_i = \frac{\sum_j e^{q_i k_j} v_j}{\sum_j e^{q_i k_j}}, \qquad
    \sum_j e^{q_i k_j} v_j = \sum_p \frac{q_i^p}{p!} \sum_j k_j^p v_j

takes d times the number of terms, where the matrix takes :math:`d^2` exponentials. What one adds to
all k changes no softmax, so they are measured from the middle of their range: then the largest
:math:`|q_i k_j|` of common maps is below 1, and up to :data:`LIMIT` the terms left out are smaller
than what the type rounds (:math:`2^{16} / 16! < 4 \cdot 10^{-9}`, :math:`2^{32} / 32! < 10^{-25}`).
"""

from math import factorial
from typing import Iterator, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.steps import convolve

IN_CACHE = 2**18  # values of A at a time: a MiB
ON_GPU = 2**26  # likewise
MANY = 512  # channels of a head
SERIES = 2**19  # values of all A, from which on the power series is faster
LIMIT = 2.0  # of the power series
VECTOR = 8  # values that a CPU computes with at a time


def convolve_strip(strip: Tensor, kernel: Tensor, bias: Optional[Tensor]) -> Tensor:
    """:func:`..attention.steps.convolve` of a strip of any length."""
    return convolve(strip, kernel, bias, short=strip.size(2) < kernel.size(2) // 2)


class StripConvolution(torch.autograd.Function):
    """:func:`convolve_strip` with a fast gradient."""

    @staticmethod
    def forward(ctx, strip: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(strip, kernel)
        return convolve_strip(strip, kernel, bias)

    @staticmethod
    def backward(ctx, grad_u: Tensor) -> Tuple[Tensor, ...]:
        strip, kernel = ctx.saved_tensors
        # The gradient of a convolution is one with the reversed kernel: much faster than what
        # PyTorch's CPU library does for it. Of short strips two sums are faster than one.
        grad_strip = convolve_strip(grad_u, kernel.flip(2), None)
        return grad_strip, kernel_backward(strip, grad_u, kernel.size(2)), grad_u.sum(0).sum(1)


def group_norm(u: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolved strips or tokens (B, C, L), normalised over each group of channels."""
    if u.size(2) >= VECTOR or u.is_cuda or not torch.is_grad_enabled():
        return torch.group_norm(u, groups, weight, bias)
    # On a CPU the gradient of fewer values a channel takes four times as long, weights and all, and
    # so does a sum over images and values at once: the weights are repeated, to make it two sums.
    normal = torch.group_norm(u.unflatten(1, [groups, -1]).flatten(2), groups).view(u.shape)
    weight, bias = (p.unsqueeze(1).expand(u.shape[1:]).contiguous() for p in (weight, bias))
    return torch.addcmul(bias, normal, weight)


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


class MeanAttention(torch.autograd.Function):
    """The last argument, what :func:`mean_attention` gave for the others, with its gradient."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, a: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v, a)
        return a.view_as(a)

    @staticmethod
    def backward(ctx, grad_a: Tensor) -> Tuple[Optional[Tensor], ...]:
        return *mean_attention_backward(*ctx.saved_tensors, grad_a), None


def mean_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ) v.

    Args:
        q: (M, d, N), with the scale of the attention in it; M is images times heads.
        k: (M, d, N).
        v: (M, d).

    Returns:
        (M, d).
    """
    if one_token(q, k):
        return one_token_attention(q.squeeze(2), k.squeeze(2), v)
    if one_kernel(q):
        v = v.unsqueeze(2).expand(q.shape).contiguous()
        q, k, v = q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)[:, 0, :, 0]
    if len(q) > at_a_time(q):
        return torch.cat([mean_attention(*part) for part in parts(q, k, v)])
    # Row times matrix: for matrix times column the CPU's library takes several times as long.
    return torch.bmm(v.unsqueeze(1), attention(q, k).transpose(1, 2)).squeeze(1)


def mean_attention_backward(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, grad_a: Tensor
) -> Tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v.

    Args:
        q: (M, d, N), with the scale of the attention in it.
        k: (M, d, N).
        v: (M, d).
        a: (M, d), what :func:`mean_attention` gave for these.
        grad_a: The gradient of that.
    """
    if one_token(q, k):
        grad_q, grad_k, grad_v = one_token_backward(q.squeeze(2), k.squeeze(2), v, a, grad_a)
        return grad_q.unsqueeze(2), grad_k.unsqueeze(2), grad_v
    if one_kernel(q):
        with torch.enable_grad():
            q, k, v = (t.detach().requires_grad_() for t in (q, k, v))
            return torch.autograd.grad(mean_attention(q, k, v), (q, k, v), grad_a)
    if len(q) > at_a_time(q):
        found = [mean_attention_backward(*part) for part in parts(q, k, v, a, grad_a)]
        return tuple(torch.cat(d) for d in zip(*found))
    v, a, g = v.unsqueeze(1), a.unsqueeze(2), grad_a.unsqueeze(1)
    attn = attention(q, k)
    grad_v = torch.bmm(g, attn).squeeze(1)
    d = torch.mul(v - a, attn, out=attn)  # no other than grad_v takes A
    grad_q = torch.bmm(k.transpose(1, 2), d.transpose(1, 2)) * g  # (M, N, d)
    grad_k = torch.bmm(q.transpose(1, 2) * g, d)
    return grad_q.transpose(1, 2), grad_k.transpose(1, 2), grad_v


def one_kernel(q: Tensor) -> bool:
    """Whether PyTorch's kernel for all steps is faster, though it takes the mean last."""
    return not q.is_cuda and q.size(1) >= MANY and q.size(2) == 1


def attention(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q kᵀ)."""
    product = torch.mul if q.size(2) == 1 else torch.bmm  # which is slow at columns times rows
    attn = product(q, k.transpose(1, 2))
    return torch.softmax(attn, 2, out=attn)


def at_a_time(q: Tensor) -> int:
    """How many matrices: two at least, for PyTorch multiplies a single one in a slower way."""
    return max(2, (ON_GPU if q.is_cuda else IN_CACHE) // q.size(1) ** 2)


def parts(*tensors: Tensor) -> Iterator[Tuple[Tensor, ...]]:
    """Some matrices at a time."""
    return zip(*(t.split(at_a_time(tensors[0])) for t in tensors))


def one_token(q: Tensor, k: Tensor) -> bool:
    """Whether the power series is to take the place of the matrices."""
    faster = q.size(2) == 1 and len(q) * q.size(1) ** 2 >= SERIES and not q.is_cuda
    return faster and converges(q.squeeze(2), k.squeeze(2))


def converges(q: Tensor, k: Tensor) -> bool:
    """Whether the series is exact for these (M, d); not so where one is not a number."""
    lowest, highest = torch.aminmax(k, dim=1)
    return float((q.abs().amax(1) * (highest - lowest)).amax().detach()) <= 2 * LIMIT


def one_token_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ) v of (M, d) each, the scale of the attention in q."""
    powers_q, powers_k, weights = powers_of(q, k)
    moments = torch.bmm(with_one(v), powers_k.transpose(1, 2))  # (M, 2, P)
    above, below = torch.bmm(moments * weights, powers_q).unbind(1)
    return above / below


def one_token_backward(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, grad_a: Tensor
) -> Tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, given ``a`` and its gradient; all (M, d)."""
    powers_q, powers_k, weights = powers_of(q, k)
    moments = torch.bmm(with_one(v), powers_k.transpose(1, 2))
    # The derivative of q^p / p! is the power before it.
    slope = torch.bmm(moments[:, :, 1:] * weights[:-1], powers_q[:, :-1])
    below = torch.bmm(moments[:, 1:] * weights, powers_q)[:, 0]
    grad_q = grad_a * (slope[:, 0] - a * slope[:, 1]) / below
    g = grad_a / below
    d = torch.stack([g, g * q, g * q * a], 1)
    d = torch.bmm(torch.bmm(d, powers_q.transpose(1, 2)) * weights, powers_k)
    return grad_q, v * d[:, 1] - d[:, 2], d[:, 0]


def powers_of(q: Tensor, k: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """The powers (M, P, d) of q and of k, from 0 up, and one over the factorials (P)."""
    count = 16 if q.dtype == torch.float32 else 32
    lowest, highest = torch.aminmax(k, dim=1, keepdim=True)
    base = torch.cat([q, k - (lowest + highest) / 2])
    powers = base.new_empty(len(base), count, base.size(1))
    powers[:, 0], powers[:, 1] = 1, base
    known = 2
    while known < count:
        half = powers[:, known // 2]
        torch.mul(powers[:, :known], (half * half).unsqueeze(1), out=powers[:, known : 2 * known])
        known *= 2
    weights = base.new_tensor([1 / factorial(p) for p in range(count)])
    return *powers.split(len(q)), weights


def with_one(v: Tensor) -> Tensor:
    """(M, d) to (M, 2, d): what is summed above and below the line."""
    return torch.stack([v, torch.ones_like(v)], 1)

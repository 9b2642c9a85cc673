"""The five passes over the map in PyTorch's own operations.

Only the map is large. Everything else works on its strips (B, C, H), (B, C, W) and its tokens
(B, C, N), and is the same code whatever computes the passes:

============  ====================================================================================
strips        x -> means over W, means over H
tokens        x, a_h, a_w -> window averages of X_s = x a_h a_w
apply         x, a_h, a_w c -> out
products      x, g -> sums of x g a_w over W and of x g a_h over H; of x a_w over each window's
              columns and of x a_h over its rows
map_backward  g, grad_y, grad_h, grad_w -> grad_x = (g c + grad_y) a_h a_w + grad_h + grad_w
============  ====================================================================================

Strips, tokens and gates have the accumulation type: float32 for half precision.

PyTorch's CPU code for the sum over a dimension takes its time where a dimension is as short as a
window or a small map. Two other operations of it give the same sums in less.
"""

from functools import lru_cache
from typing import Optional, Tuple

import torch
from torch import Tensor

SHORT = 32  # pixels of a row


def strips(x: Tensor) -> Tuple[Tensor, Tensor]:
    """The means over W (B, C, H) and over H (B, C, W)."""
    x_w = sum_rows(x, x.size(2)).squeeze(2) * (1 / x.size(2))
    return sum_last(x, 1 / x.size(3)), x_w


def tokens(x: Tensor, a_h: Tensor, a_w: Tensor, window: Tuple[int, int]) -> Tensor:
    """The average of X_s over each window of (height, width) pixels: (B, C, rows, cols).

    The gates of the columns do not matter to a sum of rows, so they are applied after it.
    """
    y = sum_rows(x, window[0], a_h).mul_(a_w.unsqueeze(2))
    return sum_columns(y, window[1], 1 / (window[0] * window[1]))


def apply(x: Tensor, a_h: Tensor, a_w: Tensor, out: Tensor) -> Tensor:
    """Fills ``out`` with x a_h a_w."""
    if x.dtype == a_h.dtype and x.is_contiguous():
        torch.mul(a_h.unsqueeze(3), a_w.unsqueeze(2), out=out)
        out *= x
    else:
        torch.mul(x, match(a_h.unsqueeze(3), x), out=out)
        out *= match(a_w.unsqueeze(2), x)
    return out


def products(
    x: Tensor, grad: Tensor, a_h: Tensor, a_w: Tensor, window: Optional[Tuple[int, int]]
) -> Tuple[Tensor, Tensor, Optional[Tensor], Optional[Tensor]]:
    """What the backward pass needs of the map: everything else is small.

    Returns:
        Sums of x grad a_w over W (B, C, H) and of x grad a_h over H (B, C, W); with a ``window``
        also those of x a_w over its columns (B, C, H, cols) and of x a_h over its rows
        (B, C, rows, W), else None. The kernels never give these two: they have `token_products`.
    """
    if window is None:
        x = x.to(a_h.dtype)  # each pixel is a token or in one: the gradient of a token is large
    gate_w = match(a_w.unsqueeze(2), x)
    product = x * grad
    s_w = gated_sum(product, a_h)
    s_h = sum_last(product.mul_(gate_w))
    if window is None:
        return s_h, s_w, None, None
    r_h = sum_columns(torch.mul(x, gate_w, out=product), window[1], 1.0)
    return s_h, s_w, r_h, sum_rows(x, window[0], a_h)


def map_backward(
    grad: Tensor,
    a_h: Tensor,
    a_w: Tensor,
    gate: Tensor,
    grad_y: Tensor,
    height: int,
    grad_h: Tensor,
    grad_w: Tensor,
    x: Tensor,
) -> Tensor:
    """The gradient of x.

    Args:
        grad: (B, C, H, W), of out.
        a_h: (B, C, H).
        a_w: (B, C, W).
        gate: (B, C), c.
        grad_y: (B, C, H // height, W), what ``height`` rows get from the tokens, each alike.
        height: Rows of a window.
        grad_h: (B, C, H), what each pixel of a row gets.
        grad_w: (B, C, W), likewise.
        x: (B, C, H, W), for its type and layout only.
    """
    grad_x = torch.empty_like(x)
    gate, used = gate.to(x.dtype)[:, :, None, None], grad_y.size(2) * height

    def windows(x: Tensor) -> Tensor:
        return x.narrow(2, 0, used).unflatten(2, [-1, height])

    grad_y = match(grad_y, x).unsqueeze(3)
    torch.addcmul(grad_y, windows(grad), gate.unsqueeze(4), out=windows(grad_x))
    if used < x.size(2):
        torch.mul(grad[:, :, used:], gate, out=grad_x[:, :, used:])
    grad_x *= match(a_h.unsqueeze(3), x)
    torch.addcmul(match(grad_h.unsqueeze(3), x), grad_x, match(a_w.unsqueeze(2), x), out=grad_x)
    grad_x += match(grad_w.unsqueeze(2), x)
    return grad_x


def sum_last(x: Tensor, scale: float = 1.0) -> Tensor:
    """The sum over the last dimension times a number, in the type of :func:`accumulation_type`."""
    width = x.size(-1)
    if width > SHORT or x.is_cuda or x.element_size() < 4 or not x.is_contiguous():
        return x.sum(-1, dtype=accumulation_type(x)) * scale
    return torch.mv(x.view(-1, width), x.new_full((width,), scale)).view(x.shape[:-1])


def sum_columns(x: Tensor, width: int, scale: float) -> Tensor:
    """The sum of each ``width`` columns times a number: (B, C, H, W) to (B, C, H, W // width)."""
    count = x.size(3) // width
    x = x if count * width == x.size(3) else x.narrow(3, 0, count * width)
    return sum_last(x.reshape(*x.shape[:3], count, width), scale)


def sum_rows(x: Tensor, height: int, gate: Optional[Tensor] = None) -> Tensor:
    """The sum of each ``height`` rows; those that are left over are left out.

    Args:
        x: (B, C, H, W).
        height: From 1 to H.
        gate: (B, C, H), what each row is multiplied with first.

    Returns:
        (B, C, H // height, W), in the type of :func:`accumulation_type`.
    """
    batch, channels, rows, width = x.shape
    count = rows // height
    used = count * height
    if not sums_bags(x):
        x = x if gate is None else x * match(gate.unsqueeze(3), x)
        return x.narrow(2, 0, used).unflatten(2, [count, height]).sum(3, dtype=accumulation_type(x))
    # A mode, such as that of fake tensors, makes others of its own, which are not to be kept.
    make = bags.__wrapped__ if torch._C._len_torch_dispatch_stack() else bags
    indices, starts = make(batch * channels, rows, height, x.device)
    weights = None if gate is None else gate.narrow(2, 0, used).reshape(-1)
    sums, *_ = torch.embedding_bag(x.view(-1, width), indices, starts, False, 0, False, weights)
    return sums.view(batch, channels, count, width)


@lru_cache(maxsize=32)
def bags(maps: int, rows: int, height: int, device: torch.device) -> Tuple[Tensor, Tensor]:
    """The rows that bags of ``height`` rows sum, and where in them each bag starts.

    They are kept, one number for each row of a map, for to make them takes up to a tenth of the
    time of a forward pass.
    """
    with torch.inference_mode(False):  # in which they could not be used in training
        indices = torch.arange(maps * rows, dtype=torch.int32, device=device).view(maps, rows)
        indices = indices[:, : rows // height * height].flatten()
        starts = torch.arange(0, len(indices), height, dtype=torch.int32, device=device)
    return indices, starts


def sums_bags(x: Tensor) -> bool:
    """Whether rows are to be summed as bags of embeddings.

    The rows of all channels are then the entries of a table, and those of a window a bag of
    weighted entries. On a CPU the sum of a bag takes a third of the time of a product and a sum
    over the dimension, and nothing is written but the sums.
    """
    return not x.is_cuda and x.dtype == torch.float32 and x.is_contiguous() and x.numel() > 0


def gated_sum(x: Tensor, gate: Tensor) -> Tensor:
    """The sum of the rows of (B, C, H, W), each gated by (B, C, H), to (B, C, W)."""
    if x.is_contiguous() and x.dtype == gate.dtype:
        return torch.bmm(gate.reshape(-1, 1, x.size(2)), x.flatten(0, 1)).view(x[:, :, 0].shape)
    return (x * match(gate.unsqueeze(3), x)).sum(2, dtype=gate.dtype)


def match(small: Tensor, x: Tensor) -> Tensor:
    """A small tensor in the type and layout of the map it meets."""
    small = small.to(x.dtype)
    if x.is_contiguous(memory_format=torch.channels_last):
        return small.contiguous(memory_format=torch.channels_last)
    return small


def accumulation_type(x: Tensor) -> torch.dtype:
    """The type that sums of a map are kept in: float32 for half precision."""
    return torch.promote_types(x.dtype, torch.float32)


def dense(x: Tensor) -> Tensor:
    """A map as the passes take it: any."""
    return x


def prepare_backward(x: Tensor, window: Optional[Tuple[int, int]]) -> None:
    """Nothing to compile."""

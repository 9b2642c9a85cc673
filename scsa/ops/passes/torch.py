"""The passes over the map in PyTorch's own operations.

Only the map is large. Everything else works on its strips (B, C, H), (B, C, W) and its tokens
(B, C, N), and is the same code whatever computes the passes:

==============  ==================================================================================
strips          x -> means over W, means over H
tokens          x, a_h, a_w -> window averages of X_s = x a_h a_w
apply           x, a_h, a_w c -> out
products        x, grad -> sums of x grad a_h over H, which c's gradient takes
gates_backward  x, grad, grad_y -> g = grad c + grad_y, the gradient of X_s; sums of x g a_w over W
                and of x g a_h over H
map_backward    g, grad_h, grad_w -> grad_x = g a_h a_w + grad_h + grad_w
==============  ==================================================================================

Strips, tokens and gates have the accumulation type: float32 for half precision.

PyTorch's CPU code for the sum over a dimension is slow where that is as short as a window or a
small map, and where a map lies channels last and its sums do not (ten times). Other operations give
the same sums in less. Large maps are taken in parts, so that a cache holds what one operation
leaves for the next.
"""

from functools import lru_cache
from typing import Callable, Iterable, Optional, Tuple

import torch
from torch import Tensor

Pair = Tuple[Tensor, Tensor]  # of the rows (B, C, H) and of the columns (B, C, W)
Window = Optional[Tuple[int, int]]  # its height and width; None where windows are not averaged

SHORT = 32  # pixels of a row
SHORTER = 16  # likewise
PART = 2**20  # values of a map at a time: 4 MiB


def strips(x: Tensor) -> Pair:
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
        for part, of_h, of_w, result in parts(x, a_h, a_w, out):
            torch.mul(of_h.unsqueeze(3), of_w.unsqueeze(2), out=result)
            result *= part
    else:
        torch.mul(x, match(a_h.unsqueeze(3), x), out=out)
        out *= match(a_w.unsqueeze(2), x)
    return out


def products(x: Tensor, grad: Tensor, gates: Pair) -> Tuple[Optional[Tensor], Tensor]:
    """None, and the sums of x grad a_h over H (B, C, W).

    In place of None the kernels give those of x grad a_w over W, for their `gates_backward`.
    """
    return None, *over_parts(lambda x, g, a_h: [sum_rows_gated(x * g, a_h)], x, grad, gates[0])


def gates_backward(
    x: Tensor, grad: Tensor, c: Tensor, grad_y: Tensor, window: Window, gates: Pair, sums: tuple
) -> Tuple[Tensor, Tensor, Tensor]:
    """The gradients of the gates of the rows and the columns, and g = grad c + grad_y, that of X_s.

    Args:
        x: (B, C, H, W).
        grad: (B, C, H, W), of out.
        c: (B, C).
        grad_y: What a pixel gets from the tokens: (B, C, rows, W), the same for all rows of a
            window and zero behind the last; without windows (B, C, H, W).
        window: Its height and width.
        gates: a_h and a_w.
        sums: What :func:`products` gave; not needed here.

    Returns:
        Sums of x g a_w over W (B, C, H) and of x g a_h over H (B, C, W); g (B, C, H, W) in the type
        and layout of x.
    """
    height = window[0] if window else 1
    used = grad_y.size(2) * height

    def windows(x: Tensor) -> Tensor:
        return x.narrow(2, 0, used).unflatten(2, [-1, height])

    def of_part(x: Tensor, grad: Tensor, g: Tensor, c: Tensor, grad_y: Tensor, *gates: Tensor):
        c, grad_y = c.to(x.dtype)[:, :, None, None], match(grad_y, x).unsqueeze(3)
        torch.addcmul(grad_y, windows(grad), c.unsqueeze(4), out=windows(g))
        if used < x.size(2):
            torch.mul(grad[:, :, used:], c, out=g[:, :, used:])
        # Without windows the gradient of a token is large, and its product beyond half precision.
        product = g * (x if window else x.to(gates[0].dtype))
        of_w = sum_rows_gated(product, gates[0])
        return sum_columns_gated(product, gates[1]), of_w

    g = torch.empty_like(x)
    return *over_parts(of_part, x, grad, g, c, grad_y, *gates), g


def map_backward(g: Tensor, gates: Pair, grads: Pair, x: Tensor) -> Tensor:
    """The gradient of x, written over g.

    Args:
        g: (B, C, H, W), of :func:`gates_backward`.
        gates: a_h and a_w.
        grads: What each pixel of a row gets (B, C, H), and of a column (B, C, W).
        x: (B, C, H, W); not needed here.
    """
    for part, a_h, a_w, grad_h, grad_w in parts(g, *gates, *grads):
        part *= match(a_h.unsqueeze(3), part)
        a_w = match(a_w.unsqueeze(2), part)
        torch.addcmul(match(grad_h.unsqueeze(3), part), part, a_w, out=part)
        part += match(grad_w.unsqueeze(2), part)
    return g


def parts(*tensors: Tensor) -> Iterable[Tuple[Tensor, ...]]:
    """Some channels at a time, (1, n, ...), of a large map, the first, and of what belongs to it.

    On a GPU, and of a map that is not contiguous, all come at once.
    """
    shape = tensors[0].shape
    contiguous = all(t.is_contiguous() for t in tensors if t.shape == shape)
    if tensors[0].is_cuda or not contiguous or tensors[0].numel() < 2 * PART:
        return [tensors]
    channels = max(1, PART // (shape[2] * shape[3]))
    return zip(*(t.reshape(1, -1, *t.shape[2:]).split(channels, 1) for t in tensors))


def over_parts(function: Callable, x: Tensor, *tensors: Tensor) -> Iterable[Tensor]:
    """The strips (B, C, L) that a function gives, computed by :func:`parts`."""
    found = [function(*part) for part in parts(x, *tensors)]
    if len(found) == 1:
        return found[0]
    return [torch.cat(strips, 1).view(*x.shape[:2], -1) for strips in zip(*found)]


def sum_last(x: Tensor, scale: float = 1.0) -> Tensor:
    """The sum over the last dimension times a number, in the type of :func:`accumulation_type`."""
    width = x.size(-1)
    if width > SHORT or x.is_cuda or x.element_size() < 4 or not x.is_contiguous():
        return sum_over(x, x.dim() - 1) * scale
    return torch.mv(x.view(-1, width), x.new_full((width,), scale)).view(x.shape[:-1])


def sum_over(x: Tensor, dim: int) -> Tensor:
    """The sum over a dimension behind the channels, in the type of :func:`accumulation_type`."""
    if x.is_cuda or x.stride(1) > 1:
        return x.sum(dim, dtype=accumulation_type(x))
    x = x.movedim(1, -1)  # as it lies, and so do its sums
    return x.sum(dim - 1, dtype=accumulation_type(x)).movedim(-1, 1).contiguous()


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
        return sum_over(x.narrow(2, 0, used).unflatten(2, [count, height]), 3)
    # A mode, such as that of fake tensors, makes others of its own, which are not to be kept.
    make = bags.__wrapped__ if torch._C._len_torch_dispatch_stack() else bags
    indices, starts = make(batch * channels, rows, height, x.device)
    weights = None if gate is None else gate.narrow(2, 0, used).reshape(-1)
    sums, *_ = torch.embedding_bag(x.view(-1, width), indices, starts, False, 0, False, weights)
    return sums.view(batch, channels, count, width)


@lru_cache(maxsize=32)
def bags(maps: int, rows: int, height: int, device: torch.device) -> Pair:
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


def sum_rows_gated(x: Tensor, a_h: Tensor) -> Tensor:
    """The sum of the rows of (B, C, H, W), each gated by (B, C, H), to (B, C, W)."""
    return sum_rows(x, x.size(2), a_h).squeeze(2)


def sum_columns_gated(x: Tensor, a_w: Tensor) -> Tensor:
    """The sum of the columns, each gated by (B, C, W), to (B, C, H); ``x`` is changed."""
    if sums_bags(x) and x.size(3) < SHORTER:
        return torch.bmm(x.flatten(0, 1), a_w.reshape(-1, x.size(3), 1)).view(x.shape[:3])
    return sum_last(x.mul_(match(a_w.unsqueeze(2), x)))


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


def prepare_backward(x: Tensor, window: Window) -> None:
    """Nothing to compile."""

"""Sums over the rows and columns of a map.

PyTorch's CPU code for the sum over a dimension takes its time where a dimension is as short as a
window or a small map. Two other operations of it give the same sums in less.
"""

from typing import Optional

import torch
from torch import Tensor

SHORT = 32  # pixels of a row


def sum_last(x: Tensor, scale: float = 1.0) -> Tensor:
    """The sum over the last dimension times a number, in the type of :func:`wide`."""
    width = x.size(-1)
    if width > SHORT or x.is_cuda or x.element_size() < 4 or not x.is_contiguous():
        return x.sum(-1, dtype=wide(x)) * scale
    return torch.mv(x.view(-1, width), x.new_full((width,), scale)).view(x.shape[:-1])


def sum_columns(x: Tensor, width: int, scale: float) -> Tensor:
    """The sum of each ``width`` columns times a number: (B, C, H, W) to (B, C, H, W // width)."""
    count = x.size(3) // width
    x = x if count * width == x.size(3) else x.narrow(3, 0, count * width)
    return sum_last(x.reshape(*x.shape[:3], count, width), scale)


def sum_rows(
    x: Tensor, height: int, numbers: Optional[Tensor] = None, gate: Optional[Tensor] = None
) -> Tensor:
    """The sum of each ``height`` rows; those that are left over are left out.

    Args:
        x: (B, C, H, W).
        height: From 1 to H.
        numbers: What :func:`row_numbers` gave for this map.
        gate: (B, C, H), what each row is multiplied with first; only with ``numbers``.

    Returns:
        (B, C, H // height, W), in the type of :func:`wide`.
    """
    batch, channels, rows, width = x.shape
    count = rows // height
    used = count * height
    if numbers is None:
        return x.narrow(2, 0, used).unflatten(2, [count, height]).sum(3, dtype=wide(x))
    if used < rows:
        numbers = numbers.view(-1, rows).narrow(1, 0, used).flatten()
        gate = None if gate is None else gate.narrow(2, 0, used)
    starts = torch.arange(0, numbers.numel(), height, dtype=numbers.dtype, device=numbers.device)
    weights = None if gate is None else gate.reshape(-1)
    sums, *_ = torch.embedding_bag(x.view(-1, width), numbers, starts, False, 0, False, weights)
    return sums.view(batch, channels, count, width)


def row_numbers(x: Tensor) -> Optional[Tensor]:
    """All rows of all channels, counted, if they are to be summed as bags of embeddings.

    The rows are then the entries of a table, and those of a window a bag of weighted entries. On a
    CPU the sum of a bag takes a third of the time of a product and a sum over the dimension, and
    nothing is written but the sums.
    """
    if x.is_cuda or x.dtype != torch.float32 or not x.is_contiguous() or not x.numel():
        return None
    return torch.arange(x.numel() // x.size(3), dtype=torch.int32, device=x.device)


def gated_sum(x: Tensor, gate: Tensor) -> Tensor:
    """The sum of the rows of (B, C, H, W), each gated by (B, C, H), to (B, C, W)."""
    if x.is_contiguous() and x.dtype == gate.dtype:
        return torch.bmm(gate.reshape(-1, 1, x.size(2)), x.flatten(0, 1)).view(x[:, :, 0].shape)
    return (x * beside(gate.unsqueeze(3), x)).sum(2, dtype=gate.dtype)


def beside(small: Tensor, x: Tensor) -> Tensor:
    """A small tensor in the type and layout of the map it meets."""
    small = small.to(x.dtype)
    if x.is_contiguous(memory_format=torch.channels_last):
        return small.contiguous(memory_format=torch.channels_last)
    return small


def wide(x: Tensor) -> torch.dtype:
    """The type that sums of a map are kept in: float32 for half precision."""
    return torch.promote_types(x.dtype, torch.float32)

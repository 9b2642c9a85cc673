"""mmpretrain's Swin written so that an exported file takes images of any size.

Its own forward computes with the height and width as Python numbers: how much is padded, which
windows are shifted, which pairs of tokens are masked. An exporter keeps those numbers, and the file
then gives wrong values at another size, some without an error. Here the same is computed from
tensors. The numbers are those of mmpretrain, bit for bit in what is tested.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def shift_windows(attention: nn.Module, tokens: Tensor, hw_shape) -> Tensor:
    """Window attention, (B, H * W, C) to the same, as ``ShiftWindowMSA.forward`` of mmpretrain."""
    height, width = hw_shape
    batch, _, channels = tokens.shape
    size = attention.window_size
    x = tokens.view(batch, height, width, channels)
    x = F.pad(x, (0, 0, 0, missing(width, size), 0, missing(height, size)))
    mask = None
    if attention.shift_size:
        shift = shift_of(attention, height, width, x.device)
        mask = mask_of(attention, x, shift)
        x = rolled(x, shift)
    windows = attention.window_partition(x, size)  # (B * N, size, size, C)
    windows = attention.w_msa(windows.view(-1, size**2, channels), mask=mask)
    # Not `window_reverse`, which finds the batch by Python's division.
    windows = windows.view(batch, x.shape[1] // size, x.shape[2] // size, size, size, channels)
    x = windows.permute(0, 1, 3, 2, 4, 5).reshape(x.shape)
    if attention.shift_size:
        x = rolled(x, -shift)
    return attention.drop(x[:, :height, :width].reshape(batch, height * width, channels))


def length(side, device: torch.device) -> Tensor:
    """A side as a tensor, whether an exporter has it as a number, a symbol or a tensor."""
    return torch.arange(side, device=device)[-1] + 1


def rolled(x: Tensor, shift: Tensor) -> Tensor:
    """``x.roll((-shift, -shift), (1, 2))`` of a (B, H, W, C) map, by a number not known before."""
    for dim in (1, 2):
        index, side = torch.arange(x.shape[dim], device=x.device), length(x.shape[dim], x.device)
        x = x.index_select(dim, (index + side + shift) % side)
    return x


def missing(side, step: int):
    """What a side lacks to a multiple of ``step``; written so that symbols of it stay short."""
    return (side + step - 1) // step * step - side


def shift_of(attention: nn.Module, height, width, device: torch.device) -> Tensor:
    """By how much windows are shifted, as a tensor: not where one spans the map's shorter side."""
    if attention.pad_small_map:
        return torch.full((), attention.shift_size, device=device)
    sides = [length(side, device) for side in (height, width)]
    return attention.shift_size * (torch.minimum(*sides) != attention.window_size).long()


def mask_of(attention: nn.Module, x: Tensor, shift: Tensor) -> Tensor:
    """-100 for tokens of a window that the shift brought together from two edges: (N, S², S²)."""
    size, parts = attention.window_size, []
    for dim in (1, 2):
        index, side = torch.arange(x.shape[dim], device=x.device), length(x.shape[dim], x.device)
        parts.append((index >= side - size).float() + (index >= side - shift).float())
    regions = (3 * parts[0][:, None] + parts[1])[None, :, :, None]  # as a map of one channel
    regions = attention.window_partition(regions, size).view(-1, size**2)
    return -100.0 * (regions[:, None] != regions[:, :, None]).float()


def pad_to_patches(padding: nn.Module, x: Tensor) -> Tensor:
    """Pads to whole patches, as ``AdaptivePadding.forward`` does where patches do not overlap."""
    pads = [missing(side, step) for side, step in zip(x.shape[-2:], padding.stride)]
    before = [pad // 2 if padding.padding == 'same' else 0 for pad in pads]
    after = [pad - first for pad, first in zip(pads, before)]
    return F.pad(x, (before[1], after[1], before[0], after[0]))


@contextlib.contextmanager
def open_sizes(model: nn.Module) -> Iterator[None]:
    """Lets the Swin blocks of a model compute sizes from tensors; other models are left alone."""
    replaced = []
    if 'mmpretrain' in sys.modules:
        from mmpretrain.models.utils import ShiftWindowMSA
        from mmpretrain.models.utils.embed import AdaptivePadding

        for module in model.modules():
            if isinstance(module, ShiftWindowMSA):
                replaced.append((module, shift_windows))
            elif isinstance(module, AdaptivePadding) and without_overlap(module):
                replaced.append((module, pad_to_patches))
    for module, function in replaced:
        module.forward = function.__get__(module)
    try:
        yield
    finally:
        for module, _ in replaced:
            del module.forward


def without_overlap(padding: nn.Module) -> bool:
    """Whether patches lie side by side, as in every Swin."""
    sizes = (padding.kernel_size, padding.stride)
    return sizes[0] == sizes[1] and tuple(padding.dilation) == (1, 1)

"""The passes over the map as Triton kernels for NVIDIA GPUs; see :mod:`.torch` for the maths.

A program has one image, a block of BC channels and some bands of rows. A band is a row of windows,
or HEIGHT rows where there are none; the rows behind the last window are a band too. Inside a band
rows are read in blocks of BR, always over the whole width BW. There is no atomic operation: sums
over columns that several programs share are added by PyTorch. Two runs give the same bits.

Maps are contiguous or channels last (LAST); all other tensors are float32 and contiguous.

ALIGN divides the side that lies together in memory (the width; channels last the channels). Written
as ``(W // ALIGN) * ALIGN`` the compiler knows that too, and reads as many values at once.
"""
# ruff: noqa: N803, N806 - capitals are sizes, as in the shapes

import math
from contextlib import nullcontext
from typing import Dict, NamedTuple, Optional, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .torch import Pair, Window

TILE = 2048  # values that a program holds at a time, at most where a row is no longer
SMALL_TILE = 512  # likewise of a map of short rows: enough programs for small batches
HEIGHT = 8  # rows of a band where there are no windows; rows that are read at a time
CHANNELS_LAST = 16  # channels that are read at a time where they lie together, or half as many
VALUES = 16  # of a tile, for each thread
# Few widths, so that images of many sizes need few variants; see also ALIGN.
WIDTHS = (8, 16, 32, 64, 512, 1024)
PROGRAMS = 4 * 132  # at least, where the map is large enough: four for each processor of an H100
VECTOR = 4  # values that are read at once, if aligned

SIZES = ['C', 'H', 'W', 'height', 'width', 'rows', 'cols', 'splits']
jit = triton.jit(do_not_specialize=SIZES)  # these change with the image: no variant for each


@triton.jit
def program(C, H, W, height, splits, LAST: tl.constexpr, ALIGN: tl.constexpr, BC: tl.constexpr):
    """C and W as the compiler is to know them; image, channels (BC), split, first and last band."""
    if LAST:
        C = (C // ALIGN) * ALIGN
    else:
        W = (W // ALIGN) * ALIGN
    pid = tl.program_id(0)
    split = pid % splits
    blocks = (C + BC - 1) // BC
    b = (pid // splits // blocks).to(tl.int64)
    c = (pid // splits % blocks) * BC + tl.arange(0, BC)
    bands = (H + height - 1) // height
    return C, W, b, c, split, bands * split // splits, bands * (split + 1) // splits


@triton.jit
def pixels(c, h, w, C, H, W, end, LAST: tl.constexpr):
    """(BC, BR, BW) places within an image, and which of them are in the map and above row `end`."""
    c, h, w = c[:, None, None], h[None, :, None], w[None, None, :]
    mask = (c < C) & (h < end) & (w < W)
    if LAST:
        return c + h * (W * C) + w * C, mask
    else:
        return c * (H * W) + h * W + w, mask


@triton.jit
def load_2d(base, c, i, C, size, stride):
    """(BC, BI) of a tensor (C, stride), its places `i` below `size`."""
    mask = (c < C)[:, None] & (i < size)[None, :]
    return tl.load(base + c[:, None] * stride + i[None, :], mask=mask, other=0.0)


@triton.jit
def store_2d(base, values, c, i, C, size, stride):
    mask = (c < C)[:, None] & (i < size)[None, :]
    tl.store(base + c[:, None] * stride + i[None, :], values, mask=mask)


@jit
def strips_kernel(
    x, x_h, x_w, C, H, W, height, splits,
    LAST: tl.constexpr, ALIGN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """X -> means over W (B, C, H); sums over the rows of a split (B, splits, C, W)."""
    C, W, b, c, split, first, last = program(C, H, W, height, splits, LAST, ALIGN, BC)
    w = tl.arange(0, BW)
    x += b * C * H * W
    columns = tl.zeros([BC, BR, BW], tl.float32)
    for band in range(first, last):
        end = tl.minimum(H, (band + 1) * height)
        for h0 in range(band * height, end, BR):
            h = h0 + tl.arange(0, BR)
            places, mask = pixels(c, h, w, C, H, W, end, LAST)
            tile = tl.load(x + places, mask=mask, other=0.0).to(tl.float32)
            columns += tile
            store_2d(x_h + b * C * H, tl.sum(tile, 2) / W, c, h, C, end, H)
    store_2d(x_w + (b * splits + split) * C * W, tl.sum(columns, 1), c, w, C, W, W)


@jit
def tokens_kernel(
    x, a_h, a_w, y, C, H, W, height, width, rows, cols, splits,
    LAST: tl.constexpr, ALIGN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """x, a_h (B, C, H), a_w (B, C, W) -> window averages y (B, C, rows, cols)."""
    BJ: tl.constexpr = BW // 8 if BW <= 64 else 4
    C, W, b, c, _, first, last = program(C, H, W, height, splits, LAST, ALIGN, BC)
    w = tl.arange(0, BW)
    x += b * C * H * W
    y += b * C * rows * cols
    gate_w = load_2d(a_w + b * C * W, c, w, C, W, W)
    for band in range(first, tl.minimum(last, rows)):
        end = (band + 1) * height
        total = tl.zeros([BC, BR, BW], tl.float32)
        for h0 in range(band * height, end, BR):
            h = h0 + tl.arange(0, BR)
            places, mask = pixels(c, h, w, C, H, W, end, LAST)
            tile = tl.load(x + places, mask=mask, other=0.0).to(tl.float32)
            total += tile * load_2d(a_h + b * C * H, c, h, C, end, H)[:, :, None]
        columns = tl.sum(total, 1) * gate_w  # (BC, BW)
        for j0 in range(0, cols, BJ):  # windows, some at a time
            j = j0 + tl.arange(0, BJ)
            window = (w[:, None] >= (j * width)[None, :]) & (
                w[:, None] < (j * width + width)[None, :]
            )
            token = tl.sum(tl.where(window[None, :, :], columns[:, :, None], 0.0), 1)
            store_2d(y + band * cols, token / (height * width), c, j, C, cols, rows * cols)


@jit
def products_kernel(
    x, grad, grad_y, a_h, a_w, s_h, s_w, C, H, W, height, rows, splits,
    LAST: tl.constexpr, ALIGN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Sums of x g a_w over W (B, C, H) and, split by split, of x g a_h over H.

    Here g is grad, which lies as x does, or grad_y (B, C, rows, W), a row of it for each band.
    """
    C, W, b, c, split, first, last = program(C, H, W, height, splits, LAST, ALIGN, BC)
    w = tl.arange(0, BW)
    x += b * C * H * W
    if grad is not None:
        grad += b * C * H * W
    gate_w = load_2d(a_w + b * C * W, c, w, C, W, W)[:, None, :]
    columns = tl.zeros([BC, BR, BW], tl.float32)
    for band in range(first, last):
        end = tl.minimum(H, (band + 1) * height)
        if grad_y is not None:
            base = grad_y + b * C * rows * W + band * W
            token = load_2d(base, c, w, tl.where(band < rows, C, 0), W, rows * W)[:, None, :]
        for h0 in range(band * height, end, BR):
            h = h0 + tl.arange(0, BR)
            places, mask = pixels(c, h, w, C, H, W, end, LAST)
            tile = tl.load(x + places, mask=mask, other=0.0).to(tl.float32)
            if grad_y is not None:
                tile *= token
            if grad is not None:
                tile *= tl.load(grad + places, mask=mask, other=0.0).to(tl.float32)
            columns += tile * load_2d(a_h + b * C * H, c, h, C, end, H)[:, :, None]
            store_2d(s_h + b * C * H, tl.sum(tile * gate_w, 2), c, h, C, end, H)
    store_2d(s_w + (b * splits + split) * C * W, tl.sum(columns, 1), c, w, C, W, W)


@jit
def gate_kernel(
    x, a_h, a_w, gate, grad_y, grad_map, grad_h, grad_w, out, C, H, W, height, rows, splits,
    LAST: tl.constexpr, ALIGN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Out = (x gate + grad_y + grad_map) a_h a_w + grad_h + grad_w, without those that are None.

    That is both `apply` and, with grad for x, `map_backward`; grad_y is (B, C, rows, W), grad_map
    lies as x does.
    """
    C, W, b, c, _, first, last = program(C, H, W, height, splits, LAST, ALIGN, BC)
    w = tl.arange(0, BW)
    x += b * C * H * W
    out += b * C * H * W
    if grad_map is not None:
        grad_map += b * C * H * W
    gate_w = load_2d(a_w + b * C * W, c, w, C, W, W)[:, None, :]
    if gate is not None:
        gate_c = tl.load(gate + b * C + c, mask=c < C, other=0.0)[:, None, None]
    if grad_w is not None:
        add_w = load_2d(grad_w + b * C * W, c, w, C, W, W)[:, None, :]
    for band in range(first, last):
        end = tl.minimum(H, (band + 1) * height)
        if grad_y is not None:
            base = grad_y + b * C * rows * W + band * W
            token = load_2d(base, c, w, tl.where(band < rows, C, 0), W, rows * W)[:, None, :]
        for h0 in range(band * height, end, BR):
            h = h0 + tl.arange(0, BR)
            places, mask = pixels(c, h, w, C, H, W, end, LAST)
            tile = tl.load(x + places, mask=mask, other=0.0).to(tl.float32)
            if gate is not None:
                tile *= gate_c
            if grad_y is not None:
                tile += token
            if grad_map is not None:
                tile += tl.load(grad_map + places, mask=mask, other=0.0).to(tl.float32)
            tile = tile * load_2d(a_h + b * C * H, c, h, C, end, H)[:, :, None] * gate_w
            if grad_w is not None:
                tile += load_2d(grad_h + b * C * H, c, h, C, end, H)[:, :, None] + add_w
            tl.store(out + places, tile.to(out.dtype.element_ty), mask=mask)


class Launch(NamedTuple):
    """How a map is cut into programs."""

    programs: int
    sizes: Dict[str, int]
    constants: Dict[str, int]


def launch(x: Tensor, height: int) -> Launch:
    """Cuts a map into programs; `height` is that of a band."""
    batch, channels, rows, width = x.shape
    last, bands = channels_last(x), triton.cdiv(rows, height)
    block_w = next(block for block in WIDTHS if block >= width)
    least_c = 1
    if last:
        programs = batch * triton.cdiv(channels, CHANNELS_LAST) * bands
        many = 16 < block_w <= 64 and programs >= PROGRAMS
        least_c = CHANNELS_LAST if many else CHANNELS_LAST // 2
    block_r = min(HEIGHT, max(1, TILE // (block_w * least_c)), triton.next_power_of_2(height))
    block_c = max(least_c, SMALL_TILE // (block_w * block_r))
    blocks = batch * triton.cdiv(channels, block_c)
    splits = min(bands, triton.cdiv(PROGRAMS, blocks))
    constants = dict(
        LAST=last, ALIGN=math.gcd(channels if last else width, VECTOR),
        BC=block_c, BR=block_r, BW=block_w,
        num_warps=min(8, max(1, block_c * block_r * block_w // (32 * VALUES))),
    )  # fmt: skip
    sizes = dict(C=channels, H=rows, W=width, height=height, splits=splits)
    return Launch(blocks * splits, sizes, constants)


def run(kernel, cut: Launch, *tensors: Optional[Tensor], **sizes: int) -> None:
    """Launches a kernel; for maps on `meta` compiles it as that launch would."""
    tensors = [t if t is None or t.dim() == 4 else t.contiguous() for t in tensors]
    arguments = dict(**cut.sizes, **sizes, **cut.constants)
    grid, device = (cut.programs,), tensors[0].device
    if device.type == 'meta':
        kernel.warmup(*tensors, grid=grid, **arguments)
        return
    with torch.cuda.device(device) if device.type == 'cuda' else nullcontext():
        kernel[grid](*tensors, **arguments)


def floats(x: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=x.device)


def channels_last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def dense(x: Tensor) -> Tensor:
    """A map as the kernels take it."""
    return x if x.is_contiguous() or channels_last(x) else x.contiguous()


def like(grad: Tensor, x: Tensor) -> Tensor:
    """A gradient in the layout of its map."""
    layout = torch.channels_last if channels_last(x) else torch.contiguous_format
    return grad.contiguous(memory_format=layout)


def sum_splits(x_w: Tensor) -> Tensor:
    return x_w.sum(1) if x_w.size(1) > 1 else x_w.squeeze(1)


def strips(x: Tensor) -> Pair:
    batch, channels, height, width = x.shape
    cut = launch(x, HEIGHT)
    x_h = floats(x, batch, channels, height)
    x_w = floats(x, batch, cut.sizes['splits'], channels, width)
    run(strips_kernel, cut, x, x_h, x_w)
    return x_h, sum_splits(x_w) / height


def tokens(x: Tensor, a_h: Tensor, a_w: Tensor, window: Tuple[int, int]) -> Tensor:
    height, width = window
    rows, cols = x.size(2) // height, x.size(3) // width
    y = floats(x, *x.shape[:2], rows, cols)
    run(tokens_kernel, launch(x, height), x, a_h, a_w, y, width=width, rows=rows, cols=cols)
    return y


def apply(x: Tensor, a_h: Tensor, a_w: Tensor, out: Tensor) -> Tensor:
    run(gate_kernel, launch(x, HEIGHT), x, a_h, a_w, *[None] * 5, out, rows=0)
    return out


def products(x: Tensor, grad: Tensor, gates: Pair) -> Pair:
    """Sums of x grad a_w over W (B, C, H) and of x grad a_h over H (B, C, W)."""
    return sums_of_products(x, like(grad, x), None, gates, HEIGHT)


def gates_backward(
    x: Tensor, grad: Tensor, c: Tensor, grad_y: Tensor, window: Window, gates: Pair, sums: Pair
) -> Tuple[Tensor, Tensor, Tuple]:
    """As in PyTorch, but g is not made: its parts are returned.

    What grad gives to the gates is known from :func:`products`, so that x is all that is read.
    """
    height = window[0] if window else 1
    if window:
        t_h, t_w = sums_of_products(x, None, grad_y.contiguous(), gates, height)
    else:
        t_h, t_w = products(x, grad_y, gates)
    s_h, s_w, gate = *sums, c.unsqueeze(2)
    return t_h.addcmul_(s_h, gate), t_w.addcmul_(s_w, gate), (grad, c, grad_y, height)


def sums_of_products(
    x: Tensor, grad: Optional[Tensor], grad_y: Optional[Tensor], gates: Pair, height: int
) -> Pair:
    """Sums of x g a_w over W, of x g a_h over H; g is grad, or grad_y for ``height`` rows each."""
    cut = launch(x, height)
    s_h = floats(x, *x.shape[:3])
    s_w = floats(x, x.size(0), cut.sizes['splits'], x.size(1), x.size(3))
    rows = 0 if grad_y is None else grad_y.size(2)
    run(products_kernel, cut, x, grad, grad_y, *gates, s_h, s_w, rows=rows)
    return s_h, sum_splits(s_w)


def map_backward(g: Tuple, gates: Pair, grads: Pair, x: Tensor) -> Tensor:
    """As in PyTorch; ``g`` is what :func:`gates_backward` returns in its place."""
    grad, c, grad_y, height = g
    grad_x, rows = torch.empty_like(x), grad_y.size(2)
    if height == 1:  # a value for each pixel: they are read as the map is
        height, grad_tokens = HEIGHT, (None, like(grad_y, x))
    else:
        grad_tokens = (grad_y.contiguous(), None)
    small = (*gates, c, *grad_tokens, *grads)
    run(gate_kernel, launch(x, height), like(grad, x), *small, grad_x, rows=rows)
    return grad_x


_prepared = set()  # for which types, layouts and tiles the backward kernels are compiled


def prepare_backward(x: Tensor, window: Window) -> None:
    """Compiles the backward kernels within the first forward pass of a kind of map.

    What the compiler refuses is then known before there is anything to lose.
    """
    cuts = (launch(x, height) for height in (window[0] if window else HEIGHT, HEIGHT))
    windows = window and window[0] > 1
    key = (x.dtype, x.device, windows, *(str(cut.constants) for cut in cuts))
    if key not in _prepared and isinstance(products_kernel, triton.JITFunction):  # else interpreted
        backward_passes(torch.empty_like(x, device='meta'), window)
        _prepared.add(key)


def backward_passes(x: Tensor, window: Window) -> None:
    """Every launch of a backward pass over a map, on strips and tokens of the right sizes."""
    batch, channels, height, width = x.shape
    gates = floats(x, batch, channels, height), floats(x, batch, channels, width)
    sums, c = products(x, x, gates), floats(x, batch, channels)
    grad_y = floats(x, batch, channels, height // window[0], width) if window else x
    *_, g = gates_backward(x, x, c, grad_y, window, gates, sums)
    map_backward(g, gates, gates, x)

"""The five passes over the map as Triton kernels for NVIDIA GPUs; see :mod:`.torch` for the maths.

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
from contextlib import contextmanager, nullcontext
from typing import Dict, Iterator, NamedTuple, Optional, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 2048  # values that a program holds at a time, at most where a row is no longer
SMALL_TILE = 512  # likewise of a map of short rows: enough programs for small batches
HEIGHT = 8  # rows of a band where there are no windows; rows that are read at a time
CHANNELS_LAST = 8  # channels that are read at a time where they lie together
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
def inside(c, h, w, C, end, W):
    return (c < C)[:, None, None] & (h < end)[None, :, None] & (w < W)[None, None, :]


@triton.jit
def offsets(c, h, w, C, H, W, LAST: tl.constexpr):
    """(BC, BR, BW) places within an image."""
    if LAST:
        return c[:, None, None] + h[None, :, None] * (W * C) + w[None, None, :] * C
    return c[:, None, None] * (H * W) + h[None, :, None] * W + w[None, None, :]


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
            mask = inside(c, h, w, C, end, W)
            tile = tl.load(x + offsets(c, h, w, C, H, W, LAST), mask=mask, other=0.0)
            tile = tile.to(tl.float32)
            columns += tile
            store_2d(x_h + b * C * H, tl.sum(tile, 2) / W, c, h, C, end, H)
    store_2d(x_w + (b * splits + split) * C * W, tl.sum(columns, 1), c, w, C, W, W)


@jit
def tokens_kernel(
    x, a_h, a_w, y, C, H, W, height, width, rows, cols, splits,
    LAST: tl.constexpr, ALIGN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """x, a_h (B, C, H), a_w (B, C, W) -> window averages y (B, C, rows, cols)."""
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
            mask = inside(c, h, w, C, end, W)
            tile = tl.load(x + offsets(c, h, w, C, H, W, LAST), mask=mask, other=0.0)
            gate_h = load_2d(a_h + b * C * H, c, h, C, end, H)
            total += tile.to(tl.float32) * gate_h[:, :, None]
        columns = tl.sum(total, 1) * gate_w  # (BC, BW)
        for j in range(cols):
            window = ((w >= j * width) & (w < (j + 1) * width))[None, :]
            token = tl.sum(tl.where(window, columns, 0.0), 1) / (height * width)
            tl.store(y + (c * rows + band) * cols + j, token, mask=c < C)


@jit
def apply_kernel(
    x, a_h, a_w, out, C, H, W, height, splits,
    LAST: tl.constexpr, ALIGN: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Out = x a_h a_w."""
    C, W, b, c, _, first, last = program(C, H, W, height, splits, LAST, ALIGN, BC)
    w = tl.arange(0, BW)
    x += b * C * H * W
    out += b * C * H * W
    gate_w = load_2d(a_w + b * C * W, c, w, C, W, W)
    for band in range(first, last):
        end = tl.minimum(H, (band + 1) * height)
        for h0 in range(band * height, end, BR):
            h = h0 + tl.arange(0, BR)
            mask = inside(c, h, w, C, end, W)
            places = offsets(c, h, w, C, H, W, LAST)
            gate_h = load_2d(a_h + b * C * H, c, h, C, end, H)
            tile = tl.load(x + places, mask=mask, other=0.0).to(tl.float32)
            tile = tile * gate_h[:, :, None] * gate_w[:, None, :]
            tl.store(out + places, tile.to(out.dtype.element_ty), mask=mask)


@jit
def products_kernel(
    x, grad, a_h, a_w, s_h, s_w, r_h, r_w, C, H, W, height, width, rows, cols, splits,
    WINDOWS: tl.constexpr, LAST: tl.constexpr, ALIGN: tl.constexpr,
    BC: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Sums of x grad a_w over W (B, C, H) and, split by split, of x grad a_h over H.

    With WINDOWS also those of x a_w over each window's columns (B, C, H, cols) and of x a_h over
    its rows (B, C, rows, W).
    """
    C, W, b, c, split, first, last = program(C, H, W, height, splits, LAST, ALIGN, BC)
    w = tl.arange(0, BW)
    x += b * C * H * W
    grad += b * C * H * W
    gate_w = load_2d(a_w + b * C * W, c, w, C, W, W)[:, None, :]
    columns = tl.zeros([BC, BR, BW], tl.float32)
    for band in range(first, last):
        end = tl.minimum(H, (band + 1) * height)
        total = tl.zeros([BC, BR, BW], tl.float32)
        for h0 in range(band * height, end, BR):
            h = h0 + tl.arange(0, BR)
            mask = inside(c, h, w, C, end, W)
            places = offsets(c, h, w, C, H, W, LAST)
            gate_h = load_2d(a_h + b * C * H, c, h, C, end, H)[:, :, None]
            tile = tl.load(x + places, mask=mask, other=0.0).to(tl.float32)
            product = tile * tl.load(grad + places, mask=mask, other=0.0).to(tl.float32)
            columns += product * gate_h
            store_2d(s_h + b * C * H, tl.sum(product * gate_w, 2), c, h, C, end, H)
            if WINDOWS:
                total += tile * gate_h
                tile *= gate_w
                for j in range(cols):
                    window = ((w >= j * width) & (w < (j + 1) * width))[None, None, :]
                    found = tl.sum(tl.where(window, tile, 0.0), 2)  # (BC, BR)
                    at = r_h + b * C * H * cols + (c[:, None] * H + h[None, :]) * cols + j
                    tl.store(at, found, mask=(c < C)[:, None] & (h < end)[None, :])
        if WINDOWS:  # noqa: SIM102 - the outer one is decided when compiling
            if band < rows:
                base = r_w + b * C * rows * W + band * W
                store_2d(base, tl.sum(total, 1), c, w, C, W, rows * W)
    store_2d(s_w + (b * splits + split) * C * W, tl.sum(columns, 1), c, w, C, W, W)


@jit
def map_backward_kernel(
    grad, a_h, a_w, gate, grad_y, grad_h, grad_w, grad_x, C, H, W, height, rows, splits,
    WINDOWS: tl.constexpr, LAST: tl.constexpr, ALIGN: tl.constexpr,
    BC: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """grad_x = (grad gate + grad_y) a_h a_w + grad_h + grad_w, grad_y (B, C, rows, W)."""
    C, W, b, c, _, first, last = program(C, H, W, height, splits, LAST, ALIGN, BC)
    w = tl.arange(0, BW)
    grad += b * C * H * W
    grad_x += b * C * H * W
    gate_c = tl.load(gate + b * C + c, mask=c < C, other=0.0)[:, None, None]
    gate_w = load_2d(a_w + b * C * W, c, w, C, W, W)[:, None, :]
    add_w = load_2d(grad_w + b * C * W, c, w, C, W, W)[:, None, :]
    for band in range(first, last):
        end = tl.minimum(H, (band + 1) * height)
        token = tl.zeros([BC, BW], tl.float32)
        if WINDOWS:
            base = grad_y + b * C * rows * W + band * W
            token = load_2d(base, c, w, tl.where(band < rows, C, 0), W, rows * W)
        for h0 in range(band * height, end, BR):
            h = h0 + tl.arange(0, BR)
            mask = inside(c, h, w, C, end, W)
            places = offsets(c, h, w, C, H, W, LAST)
            gate_h = load_2d(a_h + b * C * H, c, h, C, end, H)[:, :, None]
            add_h = load_2d(grad_h + b * C * H, c, h, C, end, H)[:, :, None]
            tile = tl.load(grad + places, mask=mask, other=0.0).to(tl.float32)
            tile = (tile * gate_c + token[:, None, :]) * gate_h * gate_w + add_h + add_w
            tl.store(grad_x + places, tile.to(grad_x.dtype.element_ty), mask=mask)


class Launch(NamedTuple):
    """How a map is cut: the number of programs, their splits of the rows, the constants."""

    programs: int
    splits: int
    constants: Dict[str, int]


def launch(x: Tensor, height: int) -> Launch:
    """Cuts a map into programs; `height` is that of a band. The batch changes no constant."""
    batch, channels, rows, width = x.shape
    last = channels_last(x)
    block_w = next(block for block in WIDTHS if block >= width)
    least_c = CHANNELS_LAST if last else 1
    block_r = min(HEIGHT, max(1, TILE // (block_w * least_c)), triton.next_power_of_2(height))
    block_c = max(least_c, SMALL_TILE // (block_w * block_r))
    blocks = batch * triton.cdiv(channels, block_c)
    splits = min(triton.cdiv(rows, height), triton.cdiv(PROGRAMS, blocks))
    together = channels if last else width
    warps = min(8, max(1, block_c * block_r * block_w // 256))  # eight values a thread
    constants = dict(
        LAST=last, ALIGN=math.gcd(together, VECTOR), BC=block_c, BR=block_r, BW=block_w,
        num_warps=warps,
    )  # fmt: skip
    return Launch(blocks * splits, splits, constants)


def channels_last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def dense(x: Tensor) -> Tensor:
    """A map as the kernels take it."""
    return x if x.is_contiguous() or channels_last(x) else x.contiguous()


def run(kernel, cut: Launch, *args, **constants) -> None:
    """Launches a kernel, or compiles it as this launch would."""
    grid = (cut.programs,)
    if _compile_only:
        kernel.warmup(*args, cut.splits, grid=grid, **constants, **cut.constants)
        return
    device = args[0].device
    with torch.cuda.device(device) if device.type == 'cuda' else nullcontext():
        kernel[grid](*args, cut.splits, **constants, **cut.constants)


def floats(x: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=x.device)


def strips(x: Tensor) -> Tuple[Tensor, Tensor]:
    batch, channels, height, width = x.shape
    cut = launch(x, HEIGHT)
    x_h = floats(x, batch, channels, height)
    x_w = floats(x, batch, cut.splits, channels, width)
    run(strips_kernel, cut, x, x_h, x_w, *x.shape[1:], HEIGHT)
    return x_h, x_w.sum(1) / height


def tokens(x: Tensor, a_h: Tensor, a_w: Tensor, window: Tuple[int, int]) -> Tensor:
    height, width = window
    rows, cols = x.size(2) // height, x.size(3) // width
    y = floats(x, *x.shape[:2], rows, cols)
    a_h, a_w = a_h.contiguous(), a_w.contiguous()
    cut = launch(x, height)
    run(tokens_kernel, cut, x, a_h, a_w, y, *x.shape[1:], height, width, rows, cols)
    return y


def apply(x: Tensor, a_h: Tensor, a_w: Tensor, out: Tensor) -> Tensor:
    a_h, a_w = a_h.contiguous(), a_w.contiguous()
    run(apply_kernel, launch(x, HEIGHT), x, a_h, a_w, out, *x.shape[1:], HEIGHT)
    return out


def products(
    x: Tensor, grad: Tensor, a_h: Tensor, a_w: Tensor, window: Optional[Tuple[int, int]]
) -> Tuple[Tensor, Tensor, Optional[Tensor], Optional[Tensor]]:
    batch, channels, *size = x.shape
    height, width = window or (HEIGHT, size[1])
    rows, cols = size[0] // height, size[1] // width
    cut = launch(x, height)
    s_h = floats(x, batch, channels, size[0])
    s_w = floats(x, batch, cut.splits, channels, size[1])
    r_h = floats(x, batch, channels, size[0], cols) if window else None
    r_w = floats(x, batch, channels, rows, size[1]) if window else None
    run(
        products_kernel, cut, x, like(grad, x), a_h.contiguous(), a_w.contiguous(), s_h, s_w, r_h,
        r_w, channels, *size, height, width, rows, cols, WINDOWS=window is not None,
    )  # fmt: skip
    return s_h, s_w.sum(1), r_h, r_w


def map_backward(
    grad: Tensor,
    a_h: Tensor,
    a_w: Tensor,
    gate: Optional[Tensor],
    grad_y: Optional[Tensor],
    window: Optional[Tuple[int, int]],
    grad_h: Tensor,
    grad_w: Tensor,
    x: Tensor,
) -> Tensor:
    grad_x = torch.empty_like(x)
    if gate is None:
        gate = torch.ones(x.shape[:2], device=x.device)
    rows = 0
    if grad_y is not None:  # a value a column, zero behind the last window
        rows, cols = grad_y.shape[2:]
        spread = grad_y.repeat_interleave(window[1], 3)
        grad_y = torch.nn.functional.pad(spread, [0, x.size(3) - cols * window[1]]).contiguous()
    height = window[0] if window else HEIGHT
    small = (t.contiguous() for t in (a_h, a_w, gate))
    run(
        map_backward_kernel, launch(x, height), like(grad, x), *small, grad_y,
        grad_h.contiguous(), grad_w.contiguous(), grad_x, *x.shape[1:], height, rows,
        WINDOWS=grad_y is not None,
    )  # fmt: skip
    return grad_x


def like(grad: Tensor, x: Tensor) -> Tensor:
    """A gradient in the layout and type of its map."""
    layout = torch.channels_last if channels_last(x) else torch.contiguous_format
    return grad.to(x.dtype).contiguous(memory_format=layout)


_prepared = set()  # for which types, layouts and tiles the backward kernels are compiled
_compile_only = False


@contextmanager
def compile_only() -> Iterator[None]:
    """Compile what is launched inside the block, and launch nothing."""
    global _compile_only
    _compile_only = True
    try:
        yield
    finally:
        _compile_only = False


def prepare_backward(x: Tensor, window: Optional[Tuple[int, int]]) -> None:
    """Compiles the backward kernels within the first forward pass of a kind of map.

    What the compiler refuses is then known before there is anything to lose.
    """
    cuts = (launch(x, height) for height in (window[0] if window else HEIGHT, HEIGHT))
    key = (x.dtype, x.device, window is None, *(str(cut.constants) for cut in cuts))
    if key in _prepared or not isinstance(products_kernel, triton.JITFunction):  # interpreted
        return
    with compile_only():
        backward_passes(torch.empty_like(x, device='meta'), window)
    _prepared.add(key)


def backward_passes(x: Tensor, window: Optional[Tuple[int, int]]) -> None:
    """Every launch of a backward pass over a map, on strips and tokens of the right sizes."""
    batch, channels, height, width = x.shape
    a_h, a_w = floats(x, batch, channels, height), floats(x, batch, channels, width)
    products(x, x, a_h, a_w, window)
    gate = grad_y = None
    if window:
        gate = floats(x, batch, channels)
        grad_y = floats(x, batch, channels, height // window[0], width // window[1])
    map_backward(x, a_h, a_w, gate, grad_y, window, a_h, a_w, x)

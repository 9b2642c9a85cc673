"""The Triton kernels that read the map or write one, forward and then backward.

Channels come in blocks of BC, a map's rows in blocks of BH; its whole width is one block BW. What
the tensors are, `fused.py` says.
"""
# ruff: noqa: N803 - capitals are sizes, as in the shapes of fused.py

import triton
import triton.language as tl

from .triton_strips import load_strips


@triton.jit
def offsets(c, h, w, sc, sh, sw):
    return c[:, None, None] * sc + h[None, :, None] * sh + w[None, None, :] * sw


@triton.jit
def inside(c, h, w, C, H, W):
    return (c < C)[:, None, None] & (h < H)[None, :, None] & (w < W)[None, None, :]


@triton.jit
def strips_kernel(
    x, strips, C, H, W, sb, sc, sh, sw, BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr
):
    """X -> strips."""
    b = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    w = tl.arange(0, BW)
    x += b * sb
    strips += b * C * (H + W)
    columns = tl.zeros([BC, BW], tl.float32)
    for h0 in range(0, H, BH):
        h = h0 + tl.arange(0, BH)
        mask = inside(c, h, w, C, H, W)
        tile = tl.load(x + offsets(c, h, w, sc, sh, sw), mask=mask, other=0.0).to(tl.float32)
        columns += tl.sum(tile, 1)
        tl.store(
            strips + c[:, None] * (H + W) + h[None, :],
            tl.sum(tile, 2) / W,
            mask=(c < C)[:, None] & (h < H)[None, :],
        )
    tl.store(
        strips + c[:, None] * (H + W) + H + w[None, :],
        columns / H,
        mask=(c < C)[:, None] & (w < W)[None, :],
    )


@triton.jit
def tokens_kernel(
    x, gates, y, C, H, W, sb, sc, sh, sw, height, width, cols,
    BC: tl.constexpr, BR: tl.constexpr, BJ: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """X and gates -> y, for one image, a block of channels and one row of windows.

    A tile is (BC, BR rows of a window, BJ windows, BS columns of a window).
    """
    b = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    row = tl.program_id(2)
    rows = tl.num_programs(2)
    x += b * sb
    gates += b * C * (H + W)
    for j0 in range(0, cols, BJ):
        j = j0 + tl.arange(0, BJ)
        total = tl.zeros([BC, BJ], tl.float32)
        for s0 in range(0, width, BS):
            s = s0 + tl.arange(0, BS)
            w = j[:, None] * width + s[None, :]  # (BJ, BS)
            mask_w = (j < cols)[:, None] & (s < width)[None, :]
            mask_cw = (c < C)[:, None, None] & mask_w[None, :, :]
            a_w = tl.load(
                gates + c[:, None, None] * (H + W) + H + w[None, :, :], mask=mask_cw, other=0.0
            )
            for r0 in range(0, height, BR):
                r = r0 + tl.arange(0, BR)
                h = row * height + r
                mask_h = (c < C)[:, None] & (r < height)[None, :]
                a_h = tl.load(gates + c[:, None] * (H + W) + h[None, :], mask=mask_h, other=0.0)
                tile = tl.load(
                    x
                    + c[:, None, None, None] * sc
                    + h[None, :, None, None] * sh
                    + w[None, None, :, :] * sw,
                    mask=mask_h[:, :, None, None] & mask_w[None, None, :, :],
                    other=0.0,
                ).to(tl.float32)
                tile = tile * a_h[:, :, None, None] * a_w[:, None, :, :]
                total += tl.sum(tl.sum(tile, 3), 1)
        tl.store(
            y + ((b * C + c[:, None]) * rows + row) * cols + j[None, :],
            total / (height * width),
            mask=(c < C)[:, None] & (j < cols)[None, :],
        )


@triton.jit
def scale_kernel(
    x, gates, gate, out, C, H, W, xb, xc, xh, xw, ob, oc, oh, ow,
    BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Out = X * a_h * a_w * c."""
    b = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    w = tl.arange(0, BW)
    gates += b * C * (H + W)
    a_c = tl.load(gate + b * C + c, mask=c < C, other=0.0)
    a_w = load_strips(gates + H, c, w, C, W, H + W) * a_c[:, None]
    for h0 in range(0, H, BH):
        h = h0 + tl.arange(0, BH)
        mask = inside(c, h, w, C, H, W)
        a_h = load_strips(gates, c, h, C, H, H + W)
        tile = tl.load(x + b * xb + offsets(c, h, w, xc, xh, xw), mask=mask, other=0.0)
        tile = tile.to(tl.float32) * a_h[:, :, None] * a_w[:, None, :]
        tl.store(out + b * ob + offsets(c, h, w, oc, oh, ow), tile, mask=mask)


@triton.jit
def products_kernel(
    x, d_out, gates, products, d_c, C, H, W, xb, xc, xh, xw, ob, oc, oh, ow,
    BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """X, d_out -> products: sums of d_out X a_w along rows, of d_out X a_h along columns; d_c."""
    b = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    w = tl.arange(0, BW)
    gates += b * C * (H + W)
    products += b * C * (H + W)
    a_w = load_strips(gates + H, c, w, C, W, H + W)
    columns = tl.zeros([BC, BW], tl.float32)
    for h0 in range(0, H, BH):
        h = h0 + tl.arange(0, BH)
        mask = inside(c, h, w, C, H, W)
        a_h = load_strips(gates, c, h, C, H, H + W)
        tile = tl.load(x + b * xb + offsets(c, h, w, xc, xh, xw), mask=mask, other=0.0)
        grad = tl.load(d_out + b * ob + offsets(c, h, w, oc, oh, ow), mask=mask, other=0.0)
        tile = tile.to(tl.float32) * grad.to(tl.float32)
        columns += tl.sum(tile * a_h[:, :, None], 1)
        tl.store(
            products + c[:, None] * (H + W) + h[None, :],
            tl.sum(tile * a_w[:, None, :], 2),
            mask=(c < C)[:, None] & (h < H)[None, :],
        )
    tl.store(
        products + c[:, None] * (H + W) + H + w[None, :],
        columns,
        mask=(c < C)[:, None] & (w < W)[None, :],
    )
    tl.store(d_c + b * C + c, tl.sum(columns * a_w, 1), mask=c < C)


@triton.jit
def load_spread(d_y, c, h, w, C, rows, cols, height, width):
    """(BC, BH, BW): what the average of each window gives back to each of its pixels."""
    i = h // height
    j = w // width
    mask = inside(c, i, j, C, rows, cols)
    places = offsets(c, i, j, rows * cols, cols, 1)
    return tl.load(d_y + places, mask=mask, other=0.0) / (height * width)


@triton.jit
def gates_from_map_kernel(
    x, gates, gate, d_y, products, C, H, W, sb, sc, sh, sw, rows, cols, height, width,
    BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Products -> the gradients of the gates, in place: what d_out and what the tokens give."""
    b = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    w = tl.arange(0, BW)
    x += b * sb
    gates += b * C * (H + W)
    products += b * C * (H + W)
    d_y += b * C * rows * cols
    a_c = tl.load(gate + b * C + c, mask=c < C, other=0.0)[:, None]
    a_w = load_strips(gates + H, c, w, C, W, H + W)
    columns = tl.zeros([BC, BW], tl.float32)
    for h0 in range(0, H, BH):
        h = h0 + tl.arange(0, BH)
        a_h = load_strips(gates, c, h, C, H, H + W)
        tile = tl.load(
            x + offsets(c, h, w, sc, sh, sw), mask=inside(c, h, w, C, H, W), other=0.0
        ).to(tl.float32)
        tile *= load_spread(d_y, c, h, w, C, rows, cols, height, width)
        columns += tl.sum(tile * a_h[:, :, None], 1)
        along = load_strips(products, c, h, C, H, H + W) * a_c
        tl.store(
            products + c[:, None] * (H + W) + h[None, :],
            along + tl.sum(tile * a_w[:, None, :], 2),
            mask=(c < C)[:, None] & (h < H)[None, :],
        )
    along = load_strips(products + H, c, w, C, W, H + W) * a_c
    tl.store(
        products + c[:, None] * (H + W) + H + w[None, :],
        along + columns,
        mask=(c < C)[:, None] & (w < W)[None, :],
    )


@triton.jit
def map_grad_kernel(
    d_out, gates, gate, d_y, d_strips, d_x, C, H, W, ob, oc, oh, ow, xb, xc, xh, xw,
    rows, cols, height, width,
    BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """d_X = (d_out c + d_y spread) a_h a_w + d_h / W + d_w / H."""
    b = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    w = tl.arange(0, BW)
    gates += b * C * (H + W)
    d_strips += b * C * (H + W)
    d_y += b * C * rows * cols
    a_c = tl.load(gate + b * C + c, mask=c < C, other=0.0)[:, None, None]
    a_w = load_strips(gates + H, c, w, C, W, H + W)[:, None, :]
    d_w = load_strips(d_strips + H, c, w, C, W, H + W)[:, None, :] / H
    for h0 in range(0, H, BH):
        h = h0 + tl.arange(0, BH)
        mask = inside(c, h, w, C, H, W)
        a_h = load_strips(gates, c, h, C, H, H + W)[:, :, None]
        d_h = load_strips(d_strips, c, h, C, H, H + W)[:, :, None] / W
        grad = tl.load(d_out + b * ob + offsets(c, h, w, oc, oh, ow), mask=mask, other=0.0)
        grad = grad.to(tl.float32) * a_c
        grad += load_spread(d_y, c, h, w, C, rows, cols, height, width)
        grad = grad * a_h * a_w + d_h + d_w
        tl.store(d_x + b * xb + offsets(c, h, w, xc, xh, xw), grad, mask=mask)

"""SCSA by Triton kernels: three reads of the map forward; two of the map, two of d_out backward.

Between the passes over the map the strips and the tokens go through kernels of their own, one
launch a step: five launches forward, eight and a sum over the batch backward. That sum is left to
PyTorch, nothing is added atomically: two runs give the same bits.

Tensors of the kernels, float32 but for the maps:

==========  ============  ========================================================================
x, out, …   (B, C, H, W)  maps of any strides; (b, c, h, w) strides are passed
strips      (B, C, H+W)   the means of the rows, then those of the columns
gates       (B, C, H+W)   a_h, then a_w
stats       (B, 2, 4, 2)  mean and 1/std of the norms of the two strips, by kernel group
y           (B, C, N)     tokens: N = rows * cols windows of height x width pixels
y_stats     (B, 2)        mean and 1/std of the norm of the tokens
a, lse, c   (B, C)        attention, logarithm of the sum of its softmax, channel gate
seed        (1)           int64, of the dropout
partial     (B, P)        gradients of all parameters, image by image, in the order of TritonSCSA
==========  ============  ========================================================================
"""

from typing import Dict, Optional, Tuple

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from . import LARGEST_IMAGE, span_of_image
from .eager import window_of
from .parameters import Options
from .strips import EPS
from .triton_attention import attention_grad_kernel, attention_kernel, tokens_grad_kernel
from .triton_map import (
    gates_from_map_kernel,
    map_grad_kernel,
    products_kernel,
    scale_kernel,
    strips_kernel,
    tokens_kernel,
)
from .triton_strips import convolutions_grad_kernel, gates_kernel, norms_grad_kernel

TILE = 2048  # values that a program holds at a time


class TritonSCSA(torch.autograd.Function):
    """Keeps X and, in float32, its strips, its tokens and a few numbers a channel.

    Takes :class:`Options`, X, the four kernels and the four biases of the strips, weight and bias
    of ``norm_h``, ``norm_w`` and ``norm``, the weights of q, k and v, and their biases or None.
    """

    @staticmethod
    def forward(ctx, options: Options, x: Tensor, *params: Optional[Tensor]) -> Tensor:
        ctx.options = options
        # On the device: a CUDA graph then draws anew at each replay.
        seed = torch.randint(2**62, (1,), device=x.device) if options.dropout else None
        params = [p if p is None else p.contiguous() for p in params]
        with torch.cuda.device_of(x):
            out, kept = forward(options, x, params, seed)
        ctx.save_for_backward(x, *kept, seed, *params)
        return out

    @staticmethod
    def backward(ctx, d_out: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, strips, y, y_stats, a, lse, gate, seed, *params = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            raise NotImplementedError(
                'the Triton kernels of SCSA have no second derivative; '
                "compute under scsa.backend('eager') what is to be differentiated twice"
            )
        if span_of_image(d_out) > LARGEST_IMAGE:
            d_out = d_out.contiguous()
        with torch.cuda.device_of(x):
            kept = strips, y, y_stats, a, lse, gate
            d_x, d_params = backward(ctx.options, d_out, x, kept, params, seed)
        return (None, d_x, *d_params)


def forward(
    options: Options, x: Tensor, params, seed: Optional[Tensor]
) -> Tuple[Tensor, Tuple[Tensor, ...]]:
    """The output, and what the backward pass needs beside X."""
    batch, channels, height, width = x.shape
    window = window_of(x, options.window_size)
    rows, cols = height // window[0], width // window[1]
    over_map, blocks = map_blocks(x)

    strips = floats(x, batch, channels, height + width)
    strips_kernel[over_map](x, strips, *x.shape[1:], *x.stride(), **blocks)

    gates, _ = gates_of(options, x, strips, params)

    y = floats(x, batch, channels, rows, cols)
    tile = window_blocks(x, window, cols)
    tokens_kernel[(batch, cdiv(channels, tile['BC']), rows)](
        x, gates, y, *x.shape[1:], *x.stride(), *window, cols, **tile
    )

    y_stats = floats(x, batch, 2)
    a, lse, gate = (floats(x, batch, channels) for _ in range(3))
    block = channel_block(options.d)
    attention_kernel[(batch, channels // options.d, cdiv(options.d, block))](
        y, y_stats, a, lse, gate, *params[12:], channels, rows * cols, options.d, EPS,
        options.d**-0.5, options.dropout, seed, BIAS=params[17] is not None,
        DROPOUT=options.dropout > 0, BM=1024, BI=block, BJ=block, BN=token_block(rows * cols),
    )  # fmt: skip
    if options.softmax:
        gate = a.softmax(1)

    out = torch.empty_like(x)
    scale_kernel[over_map](x, gates, gate, out, *x.shape[1:], *x.stride(), *out.stride(), **blocks)
    return out, (strips, y, y_stats, a, lse, gate)


def backward(options: Options, d_out: Tensor, x: Tensor, kept, params, seed: Optional[Tensor]):
    """The gradient of X and those of the parameters."""
    strips, y, y_stats, a, lse, gate = kept
    batch, channels = x.shape[:2]
    window = window_of(x, options.window_size)
    rows, cols = y.shape[2:]
    over_map, blocks = map_blocks(x)
    convs, lengths = params[:8], [weight.size(2) for weight in params[:4]]
    # The gradients of all parameters, one row an image, in the order of the parameters.
    counts = [channels // 4 * k for k in lengths] + [channels // 4] * 4 + [channels] * 12
    total, of_norms, of_norm, of_q = sum(counts), *(sum(counts[:n]) for n in (8, 12, 14))
    partial = floats(x, batch, total)

    gates, stats = gates_of(options, x, strips, params)

    d_gates, d_c = torch.empty_like(strips), torch.empty_like(gate)
    products_kernel[over_map](
        x, d_out, gates, d_gates, d_c, *x.shape[1:], *x.stride(), *d_out.stride(), **blocks
    )

    d_y = torch.empty_like(y)
    block = channel_block(options.d)
    attention_grad_kernel[(batch, channels // options.d, cdiv(options.d, block))](
        y, y_stats, a, lse, gate, d_c, d_y, partial, *params[12:], channels, rows * cols,
        options.d, total, of_q, options.d**-0.5, options.dropout, seed, SOFTMAX=options.softmax,
        BIAS=params[17] is not None, DROPOUT=options.dropout > 0, BM=1024, BI=block,
        BN=token_block(rows * cols),
    )  # fmt: skip
    tokens_grad_kernel[(batch,)](
        y, y_stats, d_y, partial, params[12], channels, rows * cols, total, of_norm,
        BC=min(64, next_power_of_2(channels)), BN=min(64, next_power_of_2(rows * cols)),
    )  # fmt: skip

    gates_from_map_kernel[over_map](
        x, gates, gate, d_y, d_gates, *x.shape[1:], *x.stride(), rows, cols, *window, **blocks
    )

    tile = strip_blocks(x)
    norms_grad_kernel[(batch, 4, 2)](
        strips, gates, stats, d_gates, partial, *convs, params[8], params[10],
        *x.shape[1:], total, of_norms, *lengths, SOFTMAX=options.softmax, **tile,
    )  # fmt: skip
    d_strips = torch.empty_like(strips)
    convolutions_grad_kernel[(batch, 4)](
        strips, d_gates, d_strips, partial, *params[:4], *x.shape[1:], total, *lengths, **tile
    )

    d_x = torch.empty_like(x)
    map_grad_kernel[over_map](
        d_out, gates, gate, d_y, d_strips, d_x, *x.shape[1:], *d_out.stride(), *d_x.stride(),
        rows, cols, *window, **blocks,
    )  # fmt: skip
    d_params = [
        None if p is None else d.view(p.shape).to(p.dtype)
        for p, d in zip(params, partial.sum(0).split(counts))
    ]
    return d_x, d_params


def gates_of(options: Options, x: Tensor, strips: Tensor, params) -> Tuple[Tensor, Tensor]:
    """The gates of rows and columns, and the statistics of their norms."""
    gates, stats = torch.empty_like(strips), floats(x, x.size(0), 2, 4, 2)
    gates_kernel[(x.size(0), 4, 2)](
        strips, gates, stats, *params[:12], *x.shape[1:], *(w.size(2) for w in params[:4]), EPS,
        SOFTMAX=options.softmax, **strip_blocks(x),
    )  # fmt: skip
    return gates, stats


def floats(x: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=x.device)


def map_blocks(x: Tensor) -> Tuple[Tuple[int, int], Dict[str, int]]:
    """Grid and tile over a map: all columns, and of rows and channels what lies close by."""
    batch, channels, height, width = x.shape
    block_w = next_power_of_2(width)
    room = max(1, TILE // block_w)
    if channels_adjacent(x):
        block_c = min(room, 64, next_power_of_2(channels))
        block_h = min(room // block_c, next_power_of_2(height))
    else:
        block_h = min(room, next_power_of_2(height))
        block_c = min(room // block_h, next_power_of_2(channels))
    return (batch, cdiv(channels, block_c)), dict(BC=block_c, BH=block_h, BW=block_w)


def window_blocks(x: Tensor, window: Tuple[int, int], cols: int) -> Dict[str, int]:
    """Tile over a row of windows: all of a small window, then windows, then channels."""
    block_r, block_s = (min(16, next_power_of_2(side)) for side in window)
    room = TILE // (block_r * block_s)
    most = next_power_of_2(x.size(1))
    block_c = min(room, 32, most) if channels_adjacent(x) else 1
    block_j = min(room // block_c, next_power_of_2(cols))
    block_c = max(block_c, min(room // block_j, most))
    return dict(BC=block_c, BR=block_r, BJ=block_j, BS=block_s)


def strip_blocks(x: Tensor) -> Dict[str, int]:
    """Tile over the strips of a kernel group: whole strips."""
    block_i = next_power_of_2(max(x.shape[2:]))
    group = next_power_of_2(x.size(1) // 4)
    return dict(BC=min(group, max(1, TILE // block_i)), BI=block_i)


def channel_block(number: int) -> int:
    return min(32, max(16, next_power_of_2(number)))  # 16 is the least of a matrix product


def token_block(number: int) -> int:
    return min(64, max(16, next_power_of_2(number)))


def channels_adjacent(x: Tensor) -> bool:
    return x.stride(1) == 1 and x.size(1) > 1

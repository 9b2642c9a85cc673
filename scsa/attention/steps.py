"""The steps of the attention as functions of tensors: what the modules and all fast paths share.

``torch.fx`` keeps each as one node (``torch.fx.wrap`` in the files that call them). Where control
flow depends on a size there is a form without a branch beside it, for ``torch.jit.trace`` and for
the ONNX exporter that is built on it: a traced module then runs at any other size.
"""

from typing import NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor


def is_exporting() -> bool:
    """Whether torch.export runs this, which before torch 2.7 a program could not ask."""
    # Not torch.compiler.is_exporting(): compiled by torch 2.11 that is always true.
    return getattr(torch.compiler, '_is_exporting_flag', False)


class Options(NamedTuple):
    """What a module computes, beside its parameters."""

    head_dim: int  # channels of a head
    window_size: int
    mode: str
    dropout: float  # 0 outside training
    softmax: bool

    def window(self, x: Tensor) -> Optional[Tuple[int, int]]:
        """Height and width of a window of ``x`` in pixels; None where windows are not averaged.

        Averages of windows are sums of rows and of columns.
        """
        if self.mode != 'avg_pool' and self.window_size != -1:
            return None
        height, width = x.size(2), x.size(3)
        size = max(height, width) if self.window_size == -1 else self.window_size
        return min(size, height), min(size, width)


class Parameters(NamedTuple):
    """The parameters of a module, joined where one operation takes several."""

    kernel: Tensor  # (C, 1, K), of all convolutions
    bias: Tensor  # (C)
    weight_h: Tensor  # (C), of norm_h
    bias_h: Tensor
    weight_w: Tensor  # (C), of norm_w
    bias_w: Tensor
    norm_weight: Tensor  # (C), of norm
    norm_bias: Tensor
    scale: Tensor  # (3, C, 1), of q, k and v
    shift: Optional[Tensor]
    conv_d: Optional[Tensor]

    @property
    def spatial(self) -> Tuple[Tensor, ...]:
        """Those that make the gates of the rows and of the columns."""
        return self[:6]

    @property
    def channel(self) -> Tuple[Optional[Tensor], ...]:
        """Those that make queries, keys and values of the tokens."""
        return self[6:10]

    def to(self, dtype: torch.dtype) -> 'Parameters':
        """The same in another type."""
        return Parameters(*(p if p is None or p.dtype == dtype else p.to(dtype) for p in self))


def check_input(x: Tensor, dim: int) -> None:
    """Refuse what is not a (B, dim, H, W) map of real numbers with at least one pixel.

    Raises:
        ValueError: on another rank, type or number of channels, or an empty map.
    """
    if torch.jit.is_tracing():  # the sizes are recorded tensors here: a branch would be frozen
        return
    if x.dim() != 4:
        raise ValueError(
            f'SCSA takes a feature map (B, C, H, W), got a tensor of {x.dim()} dimensions; '
            'lay tokens out as a map first'
        )
    if x.size(1) != dim:
        raise ValueError(
            f'SCSA was built for dim={dim} channels, got a map of {x.size(1)} channels; '
            'pass the channels of the map as dim'
        )
    if not x.is_floating_point():
        raise ValueError(f'SCSA takes a map of floating-point numbers, got {x.dtype}')
    if x.size(2) == 0 or x.size(3) == 0:
        raise ValueError(f'SCSA needs at least one pixel, got a map of {x.size(2)}x{x.size(3)}')


def upcast(x: Tensor) -> Tensor:
    """Half precision to float32: the strips and tokens are few and decide over the whole map."""
    return x.float() if x.dtype == torch.float16 or x.dtype == torch.bfloat16 else x


def convolve(strip: Tensor, kernel: Tensor, bias: Optional[Tensor], short: bool = False) -> Tensor:
    """(B, C, L) by a depthwise (C, 1, K), K odd, to (B, C, L).

    ``short`` says that L may be below K // 2. Of such strips, and of any by a longer kernel, the
    CPU's library has no fast code unless they lie channels last: it takes ten to a hundred times as
    long. Otherwise it is faster as they are.
    """
    rows, kernel = strip.unsqueeze(2), kernel.unsqueeze(2).to(strip.dtype)
    bias, half = None if bias is None else bias.to(strip.dtype), kernel.size(3) // 2
    if not rows.is_cuda and (short or half > 4):
        rows = rows.contiguous(memory_format=torch.channels_last)
    return F.conv2d(rows, kernel, bias, 1, [0, half], 1, kernel.size(0)).squeeze(2)


def convolve_strips(
    x_h: Tensor, x_w: Tensor, kernel: Tensor, bias: Tensor, unrolled: bool = False
) -> Tuple[Tensor, Tensor]:
    """The shared convolutions of the spatial attention, eight as one (section 3.2 of the paper).

    Both strips lie in one row with as many zeros between them as a kernel reaches to a side: none
    sees across.

    Args:
        x_h: (B, C, H), the mean of each row.
        x_w: (B, C, W), the mean of each column.
        kernel: (C, 1, K), K odd; the shorter kernels have zeros around them.
        bias: (C).
        unrolled: Whether to write the convolution as K products, which a compiler fuses with what
            stands around them.

    Returns:
        (B, C, H) and (B, C, W).
    """
    height, width, half = x_h.size(2), x_w.size(2), kernel.size(2) // 2
    if unrolled:
        # Zeros that are written down: what F.pad adds, generated code finds anew for every tap.
        zeros = x_h.new_zeros([x_h.size(0), x_h.size(1), half])
        row, length = torch.cat([zeros, x_h, zeros, x_w, zeros], 2), height + half + width
        u, kernel = bias.to(row.dtype).unsqueeze(1), kernel.to(row.dtype)
        for tap in range(kernel.size(2)):
            u = u + row.narrow(2, tap, length) * kernel[:, :, tap]
    else:
        u = convolve(torch.cat([F.pad(x_h, [0, half]), x_w], 2), kernel, bias)
    # narrow(), for a slice with a traced end would be frozen.
    return u.narrow(2, 0, height), u.narrow(2, height + half, width)


def strip_gate(u: Tensor, norm_weight: Tensor, norm_bias: Tensor, softmax: bool) -> Tensor:
    """A convolved strip (B, C, L) to its gate, a sigmoid or a softmax along the strip."""
    u = torch.group_norm(u, 4, norm_weight.to(u.dtype), norm_bias.to(u.dtype))
    return gate_of(u, 2, softmax)


def gate_of(z: Tensor, dim: int, softmax: bool) -> Tensor:
    """A sigmoid, or a softmax over a dimension."""
    return z.softmax(dim) if softmax else z.sigmoid()


def gate_pixels(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor,
    weight_h: Tensor,
    bias_h: Tensor,
    weight_w: Tensor,
    bias_w: Tensor,
    softmax: bool,
    unrolled: bool = False,
) -> Tensor:
    """The spatial attention: a map to X_s, each pixel times the gates of its row and its column.

    Args:
        x: (B, C, H, W).
        kernel: (C, 1, K), see :func:`convolve_strips`.
        bias: (C).
        weight_h: (C), of the norm of the rows.
        bias_h: (C), likewise.
        weight_w: (C), of the norm of the columns.
        bias_w: (C), likewise.
        softmax: Whether a gate is a softmax along the strip rather than a sigmoid.
        unrolled: See :func:`convolve_strips`.
    """
    x_h, x_w = upcast(x.mean(3)), upcast(x.mean(2))  # (B, C, H), (B, C, W)
    u_h, u_w = convolve_strips(x_h, x_w, kernel, bias, unrolled)
    a_h = strip_gate(u_h, weight_h, bias_h, softmax)
    a_w = strip_gate(u_w, weight_w, bias_w, softmax)
    # In float32, for the gradient of a gate is a sum over a row or a column.
    return (upcast(x) * a_h.unsqueeze(3) * a_w.unsqueeze(2)).to(x.dtype)


def pool_windows(x: Tensor, mode: str, window_size: int, as_means: bool = False) -> Tensor:
    """Reduce each window of a map to its average or maximum (section 3.3 of the paper).

    Rows and columns that do not fill a window are left out. A map smaller than the window counts
    as one window of its own size, where the published module fails.

    Args:
        x: (B, C, H, W).
        mode: ``'avg_pool'`` or ``'max_pool'``.
        window_size: Side of a window in pixels; -1 averages the whole map in every mode.
        as_means: Whether to average by plain means, which a compiler fuses with what stands around
            them. Their gradient is slow.

    Returns:
        (B, C, H // window_size, W // window_size).
    """
    if window_size == -1:
        return x.mean((2, 3), keepdim=True)
    if not torch.jit.is_scripting():  # noqa: SIM102, TorchScript compiles what follows an `and`
        if torch.jit.is_tracing() or is_exporting():
            return pool_traced_windows(x, mode, window_size)
    # A side shorter than the window is reduced whole: compiled for any size, torch 2.1 pools by
    # windows of a fixed size only.
    rows, cols = window_size, window_size
    if x.size(2) < rows:
        x, rows = reduce_side(x, 2, mode), 1
    if x.size(3) < cols:
        x, cols = reduce_side(x, 3, mode), 1
    if mode == 'max_pool':
        return F.max_pool2d(x, [rows, cols], [rows, cols])
    if as_means:
        return x.unfold(2, rows, rows).mean(4).unfold(3, cols, cols).mean(4)
    # Rows, then columns: torch.compile fuses windows of up to 25 pixels.
    return F.avg_pool2d(F.avg_pool2d(x, [rows, 1]), [1, cols])


def pool_traced_windows(x: Tensor, mode: str, window_size: int) -> Tensor:
    """:func:`pool_windows` without a branch on a size: a side shorter than the window is filled."""
    if mode == 'max_pool':  # the last pixel once more changes no maximum
        return F.max_pool2d(fill_windows(x, window_size, 'replicate'), window_size)
    means = F.avg_pool2d(fill_windows(x, window_size), window_size)
    rows, cols = (window_size - lacking(x, dim, window_size) for dim in (2, 3))
    return means * window_size**2 / (rows * cols)


def fill_windows(x: Tensor, window_size: int, mode: str = 'constant') -> Tensor:
    """Pad a traced map at its end to at least one window."""
    rows, cols = (lacking(x, dim, window_size) for dim in (2, 3))
    return F.pad(x, [0, cols, 0, rows], mode)


def lacking(x: Tensor, dim: int, window_size: int) -> int:
    """How many pixels a side is shorter than the window; a tensor while it is traced."""
    shorter = window_size - x.size(dim)
    if isinstance(shorter, Tensor):
        return shorter.clamp(min=0)
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # not in torch 2.1

    # A side that is known to be long enough: of `max` torch 2.15 does not conclude it.
    return 0 if statically_known_true(shorter <= 0) else torch.sym_max(shorter, 0)


def reduce_side(x: Tensor, dim: int, mode: str) -> Tensor:
    return x.max(dim, keepdim=True)[0] if mode == 'max_pool' else x.mean(dim, keepdim=True)


def recombine_windows(x: Tensor, weight: Tensor, window_size: int) -> Tensor:
    """Take all pixels of a window to the channels and mix them by a 1x1 convolution.

    Written as a product with a matrix: a convolution with the window as its kernel and stride gives
    the same, but some CPUs find NaN in bfloat16 (torch 2.13), and it is slower; a trace for any
    size takes it all the same. In float32, for a sum over a window is beyond half precision.
    A map smaller than the window is filled up with zeros.

    Args:
        x: (B, C, H, W).
        weight: (C', C * window_size ** 2, 1, 1), its inputs ordered channel, row, column.
        window_size: Side of a window in pixels.

    Returns:
        (B, C', H // window_size, W // window_size), half precision upcast.
    """
    if not torch.jit.is_scripting():  # noqa: SIM102, TorchScript compiles what follows an `and`
        if torch.jit.is_tracing() or is_exporting():
            x = upcast(fill_windows(x, window_size))
            kernel = weight.view(weight.size(0), -1, window_size, window_size)
            return F.conv2d(x, kernel.to(x.dtype), stride=window_size)
    if x.size(2) < window_size:
        x = F.pad(x, [0, 0, 0, window_size - x.size(2)])
    if x.size(3) < window_size:
        x = F.pad(x, [0, window_size - x.size(3)])
    rows, cols = x.size(2) // window_size, x.size(3) // window_size
    x = x.narrow(2, 0, rows * window_size).narrow(3, 0, cols * window_size)
    x = x.unflatten(2, [rows, window_size]).unflatten(4, [cols, window_size])
    y = upcast(x.permute(0, 2, 4, 1, 3, 5)).flatten(3)  # (B, rows, cols, C * window_size ** 2)
    return F.linear(y, weight.flatten(1).to(y.dtype)).permute(0, 3, 1, 2)


def queries_keys_values(
    y: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    scale: Tensor,
    shift: Optional[Tensor],
    d: int,
) -> Tuple[Tensor, Tensor, Tensor]:
    """The tokens of a map to what its channel attention takes; see :func:`channel_gate`.

    The attention runs over the channels; the N tokens are its features: (B, C / d, d, N) each.
    """
    # Flat first: torch 2.1 crashes at the gradient of tokens that lie channels last and need none.
    y = torch.group_norm(y.flatten(2), 1, norm_weight.to(y.dtype), norm_bias.to(y.dtype))
    return project(y, scale, shift, d)


def project(
    y: Tensor, scale: Tensor, shift: Optional[Tensor], d: int
) -> Tuple[Tensor, Tensor, Tensor]:
    """Normalised tokens (B, C, N) to queries, keys and values, (B, C / d, d, N) each."""
    qkv = y * scale.unsqueeze(1)
    if shift is not None:
        qkv = qkv + shift.unsqueeze(1)
    q, k, v = qkv.unflatten(2, [-1, d]).unbind(0)
    return q, k, v


def channel_gate(
    y: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    scale: Tensor,
    shift: Optional[Tensor],
    d: int,
    dropout: float,
    softmax: bool,
    fused: bool = True,
) -> Tensor:
    """The tokens of a map to one gate a channel (section 3.3 of the paper).

    Args:
        y: (B, C, H', W'), N = H' * W' tokens.
        norm_weight: (C), of the norm over all channels.
        norm_bias: (C), likewise.
        scale: (3, C, 1), what q, k and v multiply each channel with.
        shift: (3, C, 1), what they add, or None.
        d: Channels of a head.
        dropout: Dropout on the attention matrix, 0 outside training.
        softmax: Whether the gate is a softmax over the channels rather than a sigmoid.
        fused: Whether to use the kernel that never holds a (d, d) matrix. It has no second
            derivative; the same written out has.

    Returns:
        (B, C).
    """
    q, k, v = queries_keys_values(y, norm_weight, norm_bias, scale, shift, d)
    if fused:
        a = F.scaled_dot_product_attention(q, k, v, None, dropout, False, scale=d**-0.5).mean(3)
    else:  # the mean over the tokens commutes with the attention
        # q is scaled and not the product: torch.compile makes a slower softmax of a scaled one.
        attn = F.dropout((q * d**-0.5 @ k.transpose(2, 3)).softmax(3), dropout)
        a = (attn * v.mean(3).unsqueeze(2)).sum(3)
    return gate_of(a.flatten(1), 1, softmax)


def compose(options: Options, x: Tensor, params: Parameters) -> Tensor:
    """SCSA from the same steps as its modules, with their parameters given from outside."""
    x_s = gate_pixels(x, *params.spatial, options.softmax)
    y = tokens(x_s, options, params.conv_d)
    dropout, softmax = options.dropout, options.softmax
    c = channel_gate(y, *params.channel, options.head_dim, dropout, softmax, fused=False)
    return (upcast(x_s) * c[:, :, None, None]).to(x.dtype)


def tokens(x_s: Tensor, options: Options, conv_d: Optional[Tensor]) -> Tensor:
    """(B, C, H, W) -> (B, C, H', W'), half precision upcast."""
    if conv_d is not None:
        return recombine_windows(x_s, conv_d, options.window_size)
    return upcast(pool_windows(x_s, options.mode, options.window_size))

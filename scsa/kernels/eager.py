"""SCSA in PyTorch's own operations: in place, and keeping little but the input."""

from contextlib import contextmanager
from typing import Iterator, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from .functional import (
    channel_gate,
    convolve_strips,
    gate_of,
    join_strips,
    pool_windows,
    queries_keys_values,
    recombine_windows,
    strip_gate,
    widen,
)
from .mean_attention import mean_attention, mean_attention_gradients

SHORT = 32  # pixels of a row


class Options(NamedTuple):
    """What a module computes, beside its parameters."""

    d: int  # channels of a head
    window_size: int
    mode: str
    dropout: float  # 0 outside training
    softmax: bool

    @property
    def averages(self) -> bool:
        return self.mode == 'avg_pool' or self.window_size == -1


class EagerSCSA(torch.autograd.Function):
    """Keeps X, its strips of means, its tokens and what they attend to; the rest is made again.

    Takes :class:`Options`, X, the shared kernel and bias, weight and bias of ``norm_h``, of
    ``norm_w`` and of ``norm``, scale and shift of q, k and v, and the weight of ``conv_d``; the
    last two may be None.
    """

    @staticmethod
    def forward(ctx, options: Options, x: Tensor, *params: Optional[Tensor]) -> Tensor:
        kernel, bias, weight_h, bias_h, weight_w, bias_w, *channel, conv_d = params
        softmax = options.softmax
        ctx.options = options
        ctx.random_state = random_state(x.device) if options.dropout else None
        with torch.autocast(x.device.type, enabled=False):
            wide = torch.promote_types(x.dtype, torch.float32)
            x_h, x_w = row_means(x, wide), x.mean(2, dtype=wide)  # (B, C, H), (B, C, W)
            u_h, u_w = convolve_strips(x_h, x_w, kernel, bias)
            a_h = strip_gate(u_h, weight_h, bias_h, softmax)
            a_w = strip_gate(u_w, weight_w, bias_w, softmax)
            out = x * beside(a_h.unsqueeze(3), x)
            if options.averages:
                # A sum of rows takes no notice of the gates of the columns, so that these can wait
                # for the gates of the channels: a pass less over the map.
                y = tokens_of_rows(out, options.window_size, a_w)  # (B, C, H', W')
            else:
                out *= beside(a_w.unsqueeze(2), x)  # X_s
                y = tokens(out, options, conv_d)
            q, k, v = attention_inputs(y, *channel, options.d)
            a = attend(q, k, v, options.dropout)  # (B, heads, d)
            c = gate_of(a, softmax)  # (B, C)
            last = (a_w * c.unsqueeze(2)).unsqueeze(2) if options.averages else c[:, :, None, None]
            out *= beside(last, x)
        ctx.save_for_backward(x, x_h, x_w, y if options.averages else None, a, *params)
        return out

    @staticmethod
    def backward(ctx, d_out: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, x_h, x_w, y, a, *params = ctx.saved_tensors
        options = ctx.options
        with torch.autocast(x.device.type, enabled=False), replay(ctx.random_state, x.device):
            if torch.is_grad_enabled():  # create_graph=True: this gradient will be differentiated
                out = compose(options, x, *params)
                return (None, *gradients(out, [x, *params], d_out, create_graph=True))
            params = [
                p if p is None else p.detach().requires_grad_(p.requires_grad) for p in params
            ]
            return (None, *first_gradients(options, d_out, x, x_h, x_w, y, a, *params))


def first_gradients(options, d_out, x, x_h, x_w, y, a, *params) -> Tuple[Optional[Tensor], ...]:
    """The gradients of X and the parameters, as plain tensors."""
    kernel, bias, weight_h, bias_h, weight_w, bias_w, *channel, conv_d = params
    softmax, wide = options.softmax, x_h.dtype
    u_h, u_w = convolve_strips(x_h, x_w, kernel.detach(), bias.detach())
    u_h, u_w = u_h.detach().requires_grad_(), u_w.detach().requires_grad_()
    with torch.enable_grad():
        a_h = strip_gate(u_h, weight_h, bias_h, softmax)
        a_w = strip_gate(u_w, weight_w, bias_w, softmax)
    rows, cols = beside(a_h.detach().unsqueeze(3), x), beside(a_w.detach().unsqueeze(2), x)
    x_s = x * rows if options.averages else (x * rows).mul_(cols)

    # Out = X_s c, where c is a function of X_s
    d_xs = torch.mul(x_s, d_out)
    if options.averages:  # x_s lacks the gates of the columns so far, and need not have them
        d_c = (d_xs.sum(2, dtype=wide) * a_w.detach()).sum(2)
    else:
        d_c = d_xs.sum((2, 3), dtype=wide)
    with torch.enable_grad():
        source = y.detach().requires_grad_() if options.averages else x_s.requires_grad_()
        y = source if options.averages else tokens(x_s, options, conv_d)
        q, k, v = attention_inputs(y, *channel, options.d)
        a = attend(q, k, v, options.dropout) if options.dropout else a.detach().requires_grad_()
        c = gate_of(a, softmax)
    to, d_to = [c], [d_c]
    if not options.dropout:
        (d_a,) = gradients(c, [a], d_c)
        to, d_to = [q, k, v], mean_attention_gradients(*(t.detach() for t in (q, k, v, a)), d_a)
    d_source, *d_channel, d_conv = gradients(to, [source, *channel, conv_d], d_to)
    c = c.detach().to(x.dtype)[:, :, None, None]
    if options.averages:
        d_xs = add_spread(torch.mul(d_out, c, out=d_xs), d_source, options.window_size)
    else:
        d_xs = d_source.addcmul_(d_out, c)

    # X_s = X a_h a_w, where the gates are functions of the strips of X
    work = x_s.detach()  # no longer needed itself
    d_a_h = torch.mul(x, cols, out=work).mul_(d_xs).sum(3, dtype=wide)
    d_x = d_xs.mul_(rows)
    d_a_w = torch.mul(x, d_x, out=work).sum(2, dtype=wide)
    d_x.mul_(cols)
    d_u_h, *d_norm_h = gradients(a_h, [u_h, weight_h, bias_h], d_a_h)
    d_u_w, *d_norm_w = gradients(a_w, [u_w, weight_w, bias_w], d_a_w)
    # The gradient of a convolution is one with the reversed kernel: much faster than what
    # PyTorch's CPU library does for it.
    d_h, d_w = convolve_strips(d_u_h, d_u_w, kernel.detach().flip(2), None)
    d_x += beside((d_h / x.size(3)).unsqueeze(3), x)
    d_x += beside((d_w / x.size(2)).unsqueeze(2), x)
    half = kernel.size(2) // 2
    d_row = join_strips(d_u_h, d_u_w, half)
    d_kernel = torch.nn.grad.conv2d_weight(
        join_strips(x_h, x_w, half),
        (kernel.size(0), 1, 1, kernel.size(2)),
        d_row,
        padding=(0, half),
        groups=kernel.size(0),
    ).squeeze(2)
    d_bias = d_row.sum((0, 2, 3))
    return d_x, d_kernel, d_bias, *d_norm_h, *d_norm_w, *d_channel, d_conv


def compose(options: Options, x: Tensor, *params: Optional[Tensor]) -> Tensor:
    """The same in plain operations, differentiable any number of times."""
    kernel, bias, weight_h, bias_h, weight_w, bias_w, *channel, conv_d = params
    u_h, u_w = convolve_strips(widen(x).mean(3), widen(x).mean(2), kernel, bias)
    a_h = strip_gate(u_h, weight_h, bias_h, options.softmax)
    a_w = strip_gate(u_w, weight_w, bias_w, options.softmax)
    x_s = x * a_h.to(x.dtype).unsqueeze(3) * a_w.to(x.dtype).unsqueeze(2)
    y = tokens(x_s, options, conv_d)
    c = channel_gate(y, *channel, options.d, options.dropout, options.softmax, fused=False)
    return x_s * c.to(x.dtype)[:, :, None, None]


def tokens(x_s: Tensor, options: Options, conv_d: Optional[Tensor]) -> Tensor:
    """(B, C, H, W) -> (B, C, H', W'), half precision widened."""
    if conv_d is not None:
        return widen(recombine_windows(x_s, conv_d.to(x_s.dtype), options.window_size))
    if not options.averages:
        return widen(pool_windows(x_s, options.mode, options.window_size))
    return tokens_of_rows(x_s, options.window_size)


def tokens_of_rows(x: Tensor, window_size: int, a_w: Optional[Tensor] = None) -> Tensor:
    """The average of each window: (B, C, H, W), columns gated by (B, C, W), to (B, C, H', W')."""
    # Rows, then columns as plain sums: avg_pool2d takes twice the time on the CPU.
    height, width = window_of(x, window_size)
    rows, cols = x.size(2) // height, x.size(3) // width
    y = widen(x.narrow(2, 0, rows * height).unflatten(2, [rows, height]).mean(3))
    y = y if a_w is None else y * a_w.unsqueeze(2)
    return row_means(y.narrow(3, 0, cols * width).unflatten(3, [cols, width]))


def row_means(x: Tensor, dtype: Optional[torch.dtype] = None) -> Tensor:
    """The mean over the last dimension, faster than ``x.mean`` where that is short."""
    width = x.size(-1)
    if width > SHORT or dtype not in (None, x.dtype) or x.is_cuda or not x.is_contiguous():
        return x.mean(-1, dtype=dtype)
    return (x.view(-1, width) @ x.new_full((width,), 1 / width)).view(x.shape[:-1])


def attention_inputs(y: Tensor, *params) -> Tuple[Tensor, Tensor, Tensor]:
    """Tokens to what :func:`mean_attention` takes, the scale and the mean included."""
    q, k, v = queries_keys_values(y, *params)
    return q * q.size(2) ** -0.5, k, v.mean(3)


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    if not dropout:
        return mean_attention(q, k, v)
    attn = torch.nn.functional.dropout((q @ k.transpose(2, 3)).softmax(3), dropout)
    return (attn @ v.unsqueeze(3)).squeeze(3)


def add_spread(d_xs: Tensor, d_y: Tensor, window_size: int) -> Tensor:
    """Add to ``d_xs`` what the average of each window gives back to its pixels."""
    height, width = window_of(d_xs, window_size)
    rows, cols = d_y.size(2), d_y.size(3)
    d_y = beside((d_y / (height * width)).repeat_interleave(width, 3), d_xs)  # a value a column
    inside = d_xs.narrow(2, 0, rows * height).narrow(3, 0, cols * width)
    inside.unflatten(2, [rows, height]).add_(d_y.unsqueeze(3))
    return d_xs


def window_of(x: Tensor, window_size: int) -> Tuple[int, int]:
    height, width = x.size(2), x.size(3)
    window = max(height, width) if window_size == -1 else window_size
    return min(window, height), min(window, width)


def beside(small: Tensor, x: Tensor) -> Tensor:
    """A small tensor in the type and layout of the map it meets: a few bytes, and no strides."""
    if x.is_contiguous(memory_format=torch.channels_last):
        return small.to(x.dtype).contiguous(memory_format=torch.channels_last)
    return small.to(x.dtype).contiguous()


def gradients(outputs, inputs, d_outputs, **kwargs) -> List[Optional[Tensor]]:
    """``torch.autograd.grad`` with None for each input that is None or needs no gradient."""
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(outputs, wanted, d_outputs, **kwargs))
    return [next(found) if t is not None and t.requires_grad else None for t in inputs]


def random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == 'cuda' else torch.get_rng_state()


@contextmanager
def replay(state: Optional[Tensor], device: torch.device) -> Iterator[None]:
    """Draw the same dropout once more, and leave the random state as it was."""
    if state is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == 'cuda' else []):
        if device.type == 'cuda':
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)
        yield

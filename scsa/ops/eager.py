"""SCSA in PyTorch's own operations: in place, and keeping little but the input."""

from contextlib import contextmanager
from typing import Iterator, List, Optional, Tuple

import torch
from torch import Tensor

from . import no_autocast
from .functional import (
    channel_gate,
    convolve_strips,
    gate_of,
    pool_windows,
    queries_keys_values,
    recombine_windows,
    strip_gate,
    widen,
)
from .mean_attention import mean_attention, mean_attention_gradients
from .parameters import COUNT, Options, Parameters, join, split
from .strips import (
    gate_gradient,
    gates_and_normals,
    sides,
    strip_gates,
    strip_gradients,
    strips_of,
)
from .sums import beside, gated_sum, row_numbers, sum_columns, sum_last, sum_rows, wide


def eager_scsa(options: Options, x: Tensor, *params: Optional[Tensor]) -> Tensor:
    """:class:`EagerSCSA`, or the same with less around it where no gradient is recorded."""
    if torch.is_grad_enabled():
        return EagerSCSA.apply(options, x, *params)
    out = torch.empty_like(x)  # outside, for what is made inside knows no gradients later either
    with no_autocast(x), torch.inference_mode():
        forward(options, x, join(params, wide(x)), out)
    return out


class EagerSCSA(torch.autograd.Function):
    """Keeps X, its strips of means, its tokens and what they attend to; the rest is made again.

    Takes :class:`Options`, X, the four kernels and the four biases of the strips, weight and bias
    of ``norm_h``, ``norm_w`` and ``norm``, the weights of q, k and v, and, where there are such,
    their biases and the weight of ``conv_d``, else None.
    """

    @staticmethod
    def forward(ctx, options: Options, x: Tensor, *params: Optional[Tensor]) -> Tensor:
        ctx.options = options
        ctx.random_state = random_state(x.device) if options.dropout else None
        out = torch.empty_like(x)
        with no_autocast(x):
            y, a, strips = forward(options, x, join(params, wide(x)), out)
        ctx.save_for_backward(x, y, a, *params, *strips)
        return out

    @staticmethod
    def backward(ctx, d_out: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, y, a, *saved = ctx.saved_tensors
        params, strips = saved[:COUNT], saved[COUNT:]
        with no_autocast(x), replay(ctx.random_state, x.device):
            joined = join(params, wide(x))
            if torch.is_grad_enabled():  # create_graph=True: this gradient will be differentiated
                out = compose(ctx.options, x, joined)
                return (None, *gradients(out, [x, *params], d_out, create_graph=True))
            d_x, d_joined = first_gradients(ctx.options, d_out, x, y, a, strips, joined)
            return (None, d_x, *split(d_joined, params))


def forward(options: Options, x: Tensor, params: Parameters, out: Tensor) -> Tuple:
    """Fills ``out``; the tokens if they are averages, what they attend to, and the strips."""
    numbers = row_numbers(x)
    x_h, x_w = sum_last(x, 1 / x.size(3)), sum_rows(x, x.size(2), numbers).squeeze(2)
    strips = strips_of(x_h, x_w * (1 / x.size(2)))
    a_h, a_w = sides(strip_gates(strips, *params.spatial, options.softmax))
    # Where rows are gated as they are summed, no map is written before all gates are known.
    at_once = options.averages and numbers is not None
    if not at_once:
        torch.mul(x, beside(a_h.unsqueeze(3), x), out=out)
    if options.averages:
        # A sum of rows takes no notice of the gates of the columns, so that these can wait for the
        # gates of the channels: a pass less over the map.
        height, width = window_of(x, options.window_size)
        y = sum_rows(x, height, numbers, a_h) if at_once else sum_rows(out, height)
        y = sum_columns(y.mul_(a_w.unsqueeze(2)), width, 1 / (height * width))  # (B, C, H', W')
    else:
        out *= beside(a_w.unsqueeze(2), x)  # X_s
        y = tokens(out, options, params.conv_d)
    q, k, v = attention_inputs(y, *params.channel, options.d)
    a = attend(q, k, v, options.dropout)  # (B heads, d)
    c = gate_of(a.view(x.shape[:2]), options.softmax)  # (B, C)
    last = (a_w * c.unsqueeze(2)).unsqueeze(2) if options.averages else c[:, :, None, None]
    if at_once:
        torch.mul(a_h.unsqueeze(3), last, out=out)
        out *= x
    else:
        out *= beside(last, x)
    return y if options.averages else None, a, strips


def first_gradients(options, d_out, x, y, a, strips, params) -> Tuple[Tensor, Parameters]:
    """The gradients of X and of the parameters, as plain tensors."""
    gates = gates_and_normals(strips, *params.spatial, options.softmax)
    a_h, a_w = sides([strip.gate for strip in gates])
    rows, cols = beside(a_h.unsqueeze(3), x), beside(a_w.unsqueeze(2), x)

    # Out = X_s c, where c is a function of X_s
    if options.averages:
        source, product = y, x * d_out
        d_c = (gated_sum(product, a_h) * a_w).sum(2)
    else:
        source = (x * rows).mul_(cols)  # X_s
        product = source * d_out
        d_c = product.sum((2, 3), dtype=a_h.dtype)
    channel = [p if p is None else p.detach().requires_grad_() for p in params[4:]]
    with torch.enable_grad():
        source = source.detach().requires_grad_()
        y = source if options.averages else tokens(source, options, channel[4])
        q, k, v = attention_inputs(y, *channel[:4], options.d)
        a = attend(q, k, v, options.dropout) if options.dropout else a
        c = gate_of(a.view(d_c.shape), options.softmax)
    to, d_to = [c], [d_c]
    if not options.dropout:
        d_a = gate_gradient(d_c, c, 1, options.softmax).view(a.shape)
        to, d_to = [q, k, v], mean_attention_gradients(*(t.detach() for t in (q, k, v)), a, d_a)
    d_source, *d_channel = gradients(to, [source, *channel], d_to)
    c = c.detach().to(x.dtype)[:, :, None, None]
    if options.averages:
        d_xs = spread(d_source, options.window_size, d_out, c, out=torch.empty_like(x))
    else:
        d_xs = d_source.addcmul_(d_out, c)

    # X_s = X a_h a_w, where the gates are functions of the strips of X
    torch.mul(x, d_xs, out=product)
    d_a_w = gated_sum(product, a_h)
    d_gates = strips_of(sum_last(product.mul_(cols)), d_a_w)
    d_xs *= rows
    d_strips, *d_spatial = strip_gradients(
        strips, gates, d_gates, params.kernel, params.strip_weight, options.softmax
    )
    d_h, d_w = sides(d_strips)
    d_h, d_w = (d_h / x.size(3)).unsqueeze(3), (d_w / x.size(2)).unsqueeze(2)
    d_x = torch.addcmul(beside(d_h, x), d_xs, cols, out=d_xs)
    d_x += beside(d_w, x)
    return d_x, Parameters(*d_spatial, *d_channel)


def compose(options: Options, x: Tensor, params: Parameters) -> Tensor:
    """The same in plain operations, differentiable any number of times."""
    u_h, u_w = convolve_strips(widen(x).mean(3), widen(x).mean(2), params.kernel, params.bias)
    weight, bias = params.strip_weight.chunk(2), params.strip_bias.chunk(2)
    a_h = strip_gate(u_h, weight[0], bias[0], options.softmax)
    a_w = strip_gate(u_w, weight[1], bias[1], options.softmax)
    x_s = x * a_h.to(x.dtype).unsqueeze(3) * a_w.to(x.dtype).unsqueeze(2)
    y = tokens(x_s, options, params.conv_d)
    c = channel_gate(y, *params.channel, options.d, options.dropout, options.softmax, fused=False)
    return x_s * c.to(x.dtype)[:, :, None, None]


def tokens(x_s: Tensor, options: Options, conv_d: Optional[Tensor]) -> Tensor:
    """(B, C, H, W) -> (B, C, H', W'), half precision widened."""
    if conv_d is not None:
        return widen(recombine_windows(x_s, conv_d.to(x_s.dtype), options.window_size))
    return widen(pool_windows(x_s, options.mode, options.window_size))


def attention_inputs(y: Tensor, *params) -> Tuple[Tensor, Tensor, Tensor]:
    """Tokens to what :func:`mean_attention` takes, the scale and the mean included."""
    q, k, v = (t.flatten(0, 1) for t in queries_keys_values(y, *params))  # (B heads, d, N)
    return q * q.size(1) ** -0.5, k, sum_last(v, 1 / v.size(2))


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    if not dropout:
        return mean_attention(q, k, v)
    attn = torch.nn.functional.dropout((q @ k.transpose(1, 2)).softmax(2), dropout)
    return (attn @ v.unsqueeze(2)).squeeze(2)


def spread(d_y: Tensor, window_size: int, d_out: Tensor, c: Tensor, out: Tensor) -> Tensor:
    """``d_out`` c plus what the average of each window gives back to its pixels."""
    height, width = window_of(out, window_size)
    rows, cols = d_y.size(2), d_y.size(3)
    if (rows * height, cols * width) != tuple(out.shape[2:]):  # some pixels are in no window
        torch.mul(d_out, c, out=out)

    def inside(x: Tensor) -> Tensor:
        return x.narrow(2, 0, rows * height).narrow(3, 0, cols * width).unflatten(2, [rows, height])

    d_y = beside((d_y / (height * width)).repeat_interleave(width, 3), out)  # a value a column
    torch.addcmul(d_y.unsqueeze(3), inside(d_out), c.unsqueeze(4), out=inside(out))
    return out


def window_of(x: Tensor, window_size: int) -> Tuple[int, int]:
    height, width = x.size(2), x.size(3)
    window = max(height, width) if window_size == -1 else window_size
    return min(window, height), min(window, width)


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

"""SCSA as one autograd function: five passes over the map, everything small in plain PyTorch.

Forward it reads the map three times and writes one, backward likewise. It keeps the map, its
strips, its tokens and what they attend to; the rest is computed again.
"""

from contextlib import contextmanager
from types import ModuleType
from typing import Iterator, List, Optional, Tuple

import torch
from torch import Tensor

from .attention import mean_attention, mean_attention_backward
from .dispatch import attempt, no_autocast, passes_for
from .gates import (
    gate_backward,
    gates_and_normals,
    sides,
    strip_gates,
    strips_backward,
    strips_of,
)
from .parameters import COUNT, Options, Parameters, join, split
from .passes.torch import accumulation_type, sum_last
from .plain import compose, gate_of, queries_keys_values, tokens


def compute_scsa(options: Options, x: Tensor, *params: Optional[Tensor]) -> Tensor:
    """:class:`SCSAFunction`, or the same with less around it where no gradient is recorded."""
    if torch.is_grad_enabled():
        return SCSAFunction.apply(options, x, *params)

    def step(passes: ModuleType) -> Tensor:
        x_dense = passes.dense(x)
        out = torch.empty_like(x_dense)  # what is made in inference mode knows no gradients later
        with no_autocast(x), torch.inference_mode():
            forward(passes, options, x_dense, join(params, accumulation_type(x)), out)
        return out

    return attempt(passes_for(x), step)


class SCSAFunction(torch.autograd.Function):
    """Takes :class:`Options`, X and the parameters one by one, as :func:`.parameters.join` does."""

    @staticmethod
    def forward(ctx, options: Options, x: Tensor, *params: Optional[Tensor]) -> Tensor:
        ctx.options = options
        passes = passes_for(x)

        def step(passes: ModuleType):
            # Here and not before: a step that is done again draws anew.
            ctx.random_state = random_state(x.device) if options.dropout else None
            x_dense = passes.dense(x)
            out = torch.empty_like(x_dense)
            passes.prepare_backward(x_dense, options.window(x))
            joined = join(params, accumulation_type(x))
            return out, forward(passes, options, x_dense, joined, out)

        with no_autocast(x):
            out, (y, a, strips) = attempt(passes, step)
        ctx.passes = passes
        ctx.save_for_backward(x, y, a, *params, *strips)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, y, a, *saved = ctx.saved_tensors
        params, strips = saved[:COUNT], saved[COUNT:]
        with no_autocast(x), replay(ctx.random_state, x.device):
            joined = join(params, accumulation_type(x))
            if torch.is_grad_enabled():  # create_graph=True: this gradient will be differentiated
                out = compose(ctx.options, x, joined)
                return (None, *gradients(out, [x, *params], grad, create_graph=True))

            def step(passes: ModuleType):
                return backward(passes, ctx.options, grad, passes.dense(x), y, a, strips, joined)

            grad_x, grad_joined = attempt(ctx.passes, step)
            return (None, grad_x, *split(grad_joined, params))


def forward(
    passes: ModuleType, options: Options, x: Tensor, params: Parameters, out: Tensor
) -> Tuple:
    """Fills ``out``; the tokens if they are averages, what they attend to, and the strips."""
    strips = strips_of(*passes.strips(x))
    a_h, a_w = sides(strip_gates(strips, *params.spatial, options.softmax))
    window = options.window(x)
    if window:
        y = passes.tokens(x, a_h, a_w, window)  # (B, C, rows, cols)
    else:
        y = tokens(passes.apply(x, a_h, a_w, out), options, params.conv_d)
    q, k, v = attention_inputs(y, *params.channel, options.head_dim)
    a = attend(q, k, v, options.dropout)  # (B heads, d)
    c = gate_of(a.view(x.shape[:2]), options.softmax)  # (B, C)
    passes.apply(x, a_h, a_w * c.unsqueeze(2), out)
    return y if window else None, a, strips


def backward(
    passes: ModuleType,
    options: Options,
    grad: Tensor,
    x: Tensor,
    y: Optional[Tensor],
    a: Tensor,
    strips: List[Tensor],
    params: Parameters,
) -> Tuple[Tensor, Parameters]:
    """The gradients of X and of the parameters, as plain tensors."""
    gates = gates_and_normals(strips, *params.spatial, options.softmax)
    a_h, a_w = sides([strip.gate for strip in gates])
    window = options.window(x)
    s_h, s_w, r_h, r_w = passes.products(x, grad, a_h, a_w, window)

    # Out = X_s c, where c is a function of the tokens of X_s
    grad_c = (s_h * a_h).sum(2)
    source = y if window else passes.apply(x, a_h, a_w, torch.empty_like(x))
    c, grad_source, grad_channel = channel_backward(options, source, a, grad_c, params)
    if window:
        grad_y = grad_source / (window[0] * window[1])
        grad_a_h, grad_a_w = tokens_backward(grad_y, r_h, r_w, window)
        grad_a_h = grad_a_h.addcmul_(s_h, c.unsqueeze(2))
        grad_a_w = grad_a_w.addcmul_(s_w, c.unsqueeze(2))
    else:  # of X_s
        grad, grad_y = grad_source.addcmul_(grad, c.to(x.dtype)[:, :, None, None]), None
        grad_a_h, grad_a_w, _, _ = passes.products(x, grad, a_h, a_w, None)
        c = None

    # X_s = X a_h a_w, where the gates are functions of the strips of X
    grad_strips, *grad_spatial = strips_backward(
        strips, gates, strips_of(grad_a_h, grad_a_w), params.kernel, params.strip_weight,
        options.softmax,
    )  # fmt: skip
    grad_h, grad_w = sides(grad_strips)
    grad_x = passes.map_backward(
        grad, a_h, a_w, c, grad_y, window, grad_h / x.size(3), grad_w / x.size(2), x
    )
    return grad_x, Parameters(*grad_spatial, *grad_channel)


def channel_backward(
    options: Options, source: Tensor, a: Tensor, grad_c: Tensor, params: Parameters
) -> Tuple[Tensor, Tensor, List[Optional[Tensor]]]:
    """From the gradient of the channel gates c to that of what they come from.

    Args:
        options: What the module computes.
        source: The tokens where they are averages, else X_s.
        a: What the tokens attend to.
        grad_c: (B, C).
        params: The joined parameters.

    Returns:
        The gates (B, C), the gradient of ``source`` and those of the channel parameters.
    """
    channel = [p if p is None else p.detach().requires_grad_() for p in params[4:]]
    with torch.enable_grad():
        source = source.detach().requires_grad_()
        y = source if options.averages else tokens(source, options, channel[4])
        q, k, v = attention_inputs(y, *channel[:4], options.head_dim)
        a = attend(q, k, v, options.dropout) if options.dropout else a
        c = gate_of(a.view(grad_c.shape), options.softmax)
    to, grad_to = [c], [grad_c]
    if not options.dropout:
        grad_a = gate_backward(grad_c, c, 1, options.softmax).view(a.shape)
        to, grad_to = (
            [q, k, v],
            mean_attention_backward(*(t.detach() for t in (q, k, v)), a, grad_a),
        )
    grad_source, *grad_channel = gradients(to, [source, *channel], grad_to)
    return c.detach(), grad_source, grad_channel


def tokens_backward(
    grad_y: Tensor, r_h: Tensor, r_w: Tensor, window: Tuple[int, int]
) -> Tuple[Tensor, Tensor]:
    """What the tokens give back to the gates of the rows (B, C, H) and of the columns (B, C, W).

    With r_h (B, C, H, cols), the sum of x a_w over the columns of a window, a row gate gets the sum
    of r_h grad_y over its windows; likewise with r_w (B, C, rows, W) a column gate.

    Args:
        grad_y: (B, C, rows, cols), the gradient of a token over the pixels of its window.
        r_h: (B, C, H, cols), see :func:`.passes.torch.products`.
        r_w: (B, C, rows, W).
        window: Height and width of a window.
    """
    (rows, cols), (height, width) = grad_y.shape[2:], window
    of_rows = r_h.narrow(2, 0, rows * height).unflatten(2, [rows, height])
    of_cols = r_w.narrow(3, 0, cols * width).unflatten(3, [cols, width])
    grad_h = (of_rows * grad_y.unsqueeze(3)).sum(4).flatten(2)
    grad_w = (of_cols * grad_y.unsqueeze(4)).sum(2).flatten(2)
    # The rows and columns behind the last window get nothing.
    pad = torch.nn.functional.pad
    grad_h = pad(grad_h, [0, r_h.size(2) - rows * height])
    return grad_h, pad(grad_w, [0, r_w.size(3) - cols * width])


def attention_inputs(y: Tensor, *params) -> Tuple[Tensor, Tensor, Tensor]:
    """Tokens to what :func:`mean_attention` takes, the scale and the mean included."""
    q, k, v = (t.flatten(0, 1) for t in queries_keys_values(y, *params))  # (B heads, d, N)
    return q * q.size(1) ** -0.5, k, sum_last(v, 1 / v.size(2))


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    if not dropout:
        return mean_attention(q, k, v)
    attn = torch.nn.functional.dropout((q @ k.transpose(1, 2)).softmax(2), dropout)
    return (attn @ v.unsqueeze(2)).squeeze(2)


def gradients(outputs, inputs, grad_outputs, **kwargs) -> List[Optional[Tensor]]:
    """``torch.autograd.grad`` with None for each input that is None or needs no gradient."""
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(outputs, wanted, grad_outputs, **kwargs))
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

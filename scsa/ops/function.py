"""SCSA as one autograd function: passes over the map, everything small in plain PyTorch.

Forward it reads the map three times and writes one, backward it reads the map and its gradient
twice each. It keeps the map, its strips, its tokens and what they attend to; the rest is computed
again.
"""

from contextlib import contextmanager
from types import ModuleType
from typing import Iterator, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.steps import Options, Parameters, compose, gate_of, project, tokens
from .dispatch import attempt, no_autocast, passes_for
from .passes.torch import accumulation_type, sum_last
from .small import MeanAttention, StripConvolution, convolve_strip, group_norm, mean_attention


def compute_scsa(options: Options, x: Tensor, params: Parameters) -> Tensor:
    """:class:`SCSAFunction`, or the same with less around it where no gradient is recorded."""
    if torch.is_grad_enabled():
        return SCSAFunction.apply(options, x, *params)
    with no_autocast(x), torch.inference_mode():
        return attempt(passes_for(x), forward, options, x, params)[0]


class SCSAFunction(torch.autograd.Function):
    """Takes :class:`Options`, X and :class:`Parameters` one by one."""

    @staticmethod
    def forward(ctx, options: Options, x: Tensor, *params: Optional[Tensor]) -> Tensor:
        ctx.options, ctx.passes = options, passes_for(x)
        with no_autocast(x):
            out, *kept = attempt(ctx.passes, forward, options, x, Parameters(*params), True)
        ctx.save_for_backward(x, *kept, *params)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, x_h, x_w, y, a, random_state, *params = ctx.saved_tensors
        with no_autocast(x), replay(random_state, x):
            if torch.is_grad_enabled():  # create_graph=True: this gradient will be differentiated
                joined = Parameters(*params).to(accumulation_type(x))
                out = compose(ctx.options, x, joined)
                return (None, *gradients(out, [x, *params], grad, create_graph=True))
            kept = (x_h, x_w, y, a)
            return (None, *attempt(ctx.passes, backward, ctx.options, grad, x, kept, params))


def forward(
    passes: ModuleType, options: Options, x: Tensor, params: Parameters, recorded: bool = False
) -> Tuple[Optional[Tensor], ...]:
    """The output and what the gradient takes, which is prepared if one is ``recorded``.

    That are the strips, the tokens if they are averages, what they attend to, and the random state.
    """
    x, params, window = passes.dense(x), params.to(accumulation_type(x)), options.window(x)
    if recorded:
        passes.prepare_backward(x, window)
    random_state = generator_of(x).get_state() if recorded and options.dropout else None
    with torch.inference_mode(False):  # for what is made in it knows no gradients later
        out = torch.empty_like(x)
    x_h, x_w = passes.strips(x)
    a_h, a_w = strip_gates(x_h, x_w, params, options.softmax)
    if window:
        y = passes.tokens(x, a_h, a_w, window)  # (B, C, rows, cols)
    else:
        y = tokens(passes.apply(x, a_h, a_w, out), options, params.conv_d)
    c, a = channel_gates(y, params, options)
    passes.apply(x, a_h, a_w * c.unsqueeze(2), out)
    return out, x_h, x_w, y if window else None, a, random_state


def backward(
    passes: ModuleType, options: Options, grad: Tensor, x: Tensor, kept: tuple, params: Parameters
) -> List[Optional[Tensor]]:
    """The gradients of X and of the parameters, given what :func:`forward` kept.

    The small tensors are computed again, and their gradients are PyTorch's.
    """
    x, window = passes.dense(x), options.window(x)
    x_h, x_w, y, a = kept
    x_h, x_w, y, *params = (leaf(t) for t in (x_h, x_w, y, *params))
    with torch.enable_grad():
        joined = Parameters(*params).to(accumulation_type(x))
        gates = strip_gates(x_h, x_w, joined, options.softmax)
    a_h, a_w = pair = tuple(gate.detach() for gate in gates)
    sums = passes.products(x, grad, pair)

    # Out = X_s c, where c is a function of the tokens of X_s
    source = y if window else leaf(passes.apply(x, a_h, a_w, torch.empty_like(x)))
    with torch.enable_grad():
        y = y if window else tokens(source, options, joined.conv_d)
        c, _ = channel_gates(y, joined, options, a)
    grad_y, *grad_channel = gradients(c, [source, *params[6:]], (sums[1] * a_w).sum(2))
    if window:
        grad_y = spread_over_columns(grad_y, window, x.size(3))
    *grad_gates, g = passes.gates_backward(x, grad, c.detach(), grad_y, window, pair, sums)

    # X_s = X a_h a_w, where the gates are functions of the strips of X
    grad_h, grad_w, *grad_spatial = gradients(gates, [x_h, x_w, *params[:6]], grad_gates)
    grad_x = passes.map_backward(g, pair, (grad_h / x.size(3), grad_w / x.size(2)), x)
    return [grad_x, *grad_spatial, *grad_channel]


def leaf(t: Optional[Tensor]) -> Optional[Tensor]:
    """A tensor whose gradient is asked for, without its history."""
    return t if t is None else t.detach().requires_grad_()


def strip_gates(
    x_h: Tensor, x_w: Tensor, params: Parameters, softmax: bool
) -> Tuple[Tensor, Tensor]:
    """The means of the rows (B, C, H) and of the columns (B, C, W) to their gates."""
    kernel, bias, weight_h, bias_h, weight_w, bias_w = params.spatial
    if x_h.shape != x_w.shape:
        a_h = gates_of_strip(x_h, kernel, bias, weight_h, bias_h, softmax)
        return a_h, gates_of_strip(x_w, kernel, bias, weight_w, bias_w, softmax)
    # As channels of one strip: everything is done once.
    both, weight, shift = torch.cat([x_h, x_w], 1), [weight_h, weight_w], [bias_h, bias_w]
    gates = gates_of_strip(both, kernel, bias, torch.cat(weight), torch.cat(shift), softmax)
    return gates.chunk(2, 1)


def gates_of_strip(
    strip: Tensor, kernel: Tensor, bias: Tensor, weight: Tensor, shift: Tensor, softmax: bool
) -> Tensor:
    """The gates of a strip (B, C, L), or of two on top of each other, (B, 2 C, L).

    Args:
        strip: The means.
        kernel: (C, 1, K).
        bias: (C).
        weight: (C) or (2 C), of the norm.
        shift: Likewise.
        softmax: Whether a gate is a softmax along the strip rather than a sigmoid.
    """
    one = strip.view(-1, len(kernel), strip.size(2))
    convolution = StripConvolution.apply if torch.is_grad_enabled() else convolve_strip
    u = convolution(one, kernel, bias).contiguous().view(strip.shape)
    z = group_norm(u, 4 * len(weight) // len(kernel), weight, shift)
    return gate_of(z, 2, softmax)


def channel_gates(
    y: Tensor, params: Parameters, options: Options, a: Optional[Tensor] = None
) -> Tuple[Tensor, Tensor]:
    """Tokens to the gates of the channels (B, C) and to what they attend to, if not known yet."""
    z = group_norm(y.flatten(2), 1, *params.channel[:2])
    q, k, v = project(z, *params.channel[2:], options.head_dim)
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)  # (B heads, d, N)
    q, v = q * options.head_dim**-0.5, sum_last(v, 1 / v.size(2))
    if options.dropout:
        attn = F.dropout((q @ k.transpose(1, 2)).softmax(2), options.dropout)
        a = (attn @ v.unsqueeze(2)).squeeze(2)
    else:
        a = mean_attention(q, k, v) if a is None else MeanAttention.apply(q, k, v, a)
    return gate_of(a.view(y.shape[:2]), 1, options.softmax), a


def spread_over_columns(grad_y: Tensor, window: Tuple[int, int], width: int) -> Tensor:
    """The gradient of the tokens (B, C, rows, cols) to that of a pixel of each column.

    Returns:
        (B, C, rows, W), zero behind the last window.
    """
    shares = (grad_y / (window[0] * window[1])).unsqueeze(4)
    spread = shares.expand(-1, -1, -1, -1, window[1]).flatten(3)
    return F.pad(spread, [0, width - spread.size(3)]) if spread.size(3) < width else spread


def gradients(outputs, inputs, grad_outputs, **kwargs) -> List[Optional[Tensor]]:
    """``torch.autograd.grad`` with None for each input that is None or needs no gradient."""
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(outputs, wanted, grad_outputs, **kwargs))
    return [next(found) if t is not None and t.requires_grad else None for t in inputs]


def generator_of(x: Tensor) -> torch.Generator:
    """What draws on the device of a tensor."""
    return torch.cuda.default_generators[x.get_device()] if x.is_cuda else torch.default_generator


@contextmanager
def replay(state: Optional[Tensor], x: Tensor) -> Iterator[None]:
    """Draw the same dropout once more, and leave the random state as it was."""
    with torch.random.fork_rng([x.get_device()] if x.is_cuda else [], state is not None):
        if state is not None:
            generator_of(x).set_state(state)
        yield

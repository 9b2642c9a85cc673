"""Any arguments, maps, types, grad modes and backends: the right numbers or a known error.

Each example compares with the formulas of the paper in float64, written down here once more, and
expects exactly the errors that the docstrings of the modules and docs/reliability.md name.

    SCSA_FUZZ_EXAMPLES=10000 SCSA_FUZZ_SEED=7 pytest -s tests/test_reliability/test_fuzz.py
"""

import contextlib
import copy
import importlib
import os
from collections import Counter
from typing import NamedTuple, Optional

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from scsa import PCSA, SCSA, SMSA, backend
from scsa.ops import dispatch

EXAMPLES = int(os.environ.get('SCSA_FUZZ_EXAMPLES', '2000'))
SEED = int(os.environ.get('SCSA_FUZZ_SEED', '0'))
VERSION = tuple(int(part) for part in torch.__version__.split('+')[0].split('.')[:2])
HALF = (torch.float16, torch.bfloat16)
# Largest error of an output over the largest value, and of a gradient over the largest of all.
BOUND = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 0.15}
outcomes = Counter()


class Case(NamedTuple):
    kind: type
    arguments: dict
    of_parameters: torch.dtype
    shape: tuple
    dtype: torch.dtype
    layout: str
    scale: float
    autocast: Optional[torch.dtype]
    grad: str
    trained: int  # bits: the map, then the parameters
    training: bool
    backend: str
    seed: int


def rarely(common, odd, one_in):
    """Mostly of the first."""
    return st.integers(0, one_in - 1).flatmap(lambda n: odd if n == 0 else common)


@st.composite
def cases(draw):
    kind = draw(st.sampled_from((SCSA, SCSA, SCSA, SMSA, PCSA)))
    arguments = dict(
        dim=draw(rarely(st.sampled_from((4, 8, 12, 16, 24)), st.integers(-4, 33), 30)),
        gate_layer=draw(rarely(st.sampled_from(('sigmoid', 'softmax')), st.just('tanh'), 80)),
    )
    if kind is not PCSA:
        arguments['group_kernel_sizes'] = draw(
            rarely(
                st.tuples(*[st.sampled_from((1, 3, 5, 7, 9, 11))] * 4),
                st.lists(st.integers(-1, 6), min_size=3, max_size=5),
                60,
            )
        )
    if kind is not SMSA:
        arguments.update(
            head_num=draw(rarely(st.sampled_from((1, 1, 2, 4)), st.integers(-1, 7), 40)),
            window_size=draw(
                rarely(st.sampled_from((-1, 1, 2, 3, 7)), st.sampled_from((0, -2, 2.0, '7')), 80)
            ),
            qkv_bias=draw(st.booleans()),
            down_sample_mode=draw(
                rarely(
                    st.sampled_from(('avg_pool', 'max_pool', 'recombination')), st.just('mean'), 80
                )
            ),
            attn_drop_ratio=draw(
                rarely(
                    st.sampled_from((0.0, 0.0, 0.3)), st.sampled_from((1.0, -0.1, float('nan'))), 80
                )
            ),
        )
    of_parameters = draw(
        st.sampled_from(
            (torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)
        )
    )
    side = st.integers(1, 10)
    shape = [draw(st.integers(1, 3)), arguments['dim'], draw(side), draw(side)]
    if draw(st.integers(0, 3)) == 0:
        shape[3] = shape[2]
    odd = draw(st.integers(0, 60))
    if odd == 0:
        shape[draw(st.sampled_from((0, 2, 3)))] = 0
    elif odd == 1:
        shape[1] += draw(st.integers(1, 4))
    elif odd == 2:
        shape.pop()
    elif odd == 3:
        shape.append(2)
    dtype = draw(st.one_of(st.just(of_parameters), st.sampled_from(list(BOUND))))
    if odd == 4:
        dtype = draw(st.sampled_from((torch.int64, torch.uint8, torch.bool, torch.complex64)))
    autocasts = [None, None, torch.bfloat16]
    if VERSION >= (2, 4):  # before, PyTorch had none of float16 on the CPU
        autocasts.append(torch.float16)
    return Case(
        kind,
        arguments,
        of_parameters,
        tuple(max(0, n) for n in shape),
        dtype,
        draw(st.sampled_from(('contiguous', 'last', 'transposed', 'sliced', 'step', 'expanded'))),
        draw(st.sampled_from((1.0, 1.0, 0.05, 20.0))),
        draw(st.sampled_from(autocasts)),
        draw(st.sampled_from(('no_grad', 'inference', 'grad', 'grad', 'create_graph'))),
        draw(st.integers(0, 2**20 - 1)),
        draw(st.booleans()),
        draw(
            rarely(st.sampled_from(('auto', 'auto', 'eager', 'reference')), st.just('triton'), 30)
        ),
        draw(st.integers(0, 2**16)),
    )


# What is refused


def refused_arguments(case):
    """Whether the constructor raises, by what its docstring says."""
    a = case.arguments
    if a['gate_layer'] == 'tanh':
        return True
    if case.kind is not PCSA:
        kernels = a['group_kernel_sizes']
        if a['dim'] < 1 or a['dim'] % 4 or len(kernels) != 4:
            return True
        if any(k < 1 or k % 2 == 0 for k in kernels):
            return True
    if case.kind is not SMSA:
        if a['dim'] < 1 or a['head_num'] < 1 or a['dim'] % a['head_num']:
            return True
        if a['window_size'] in (0, -2, '7') or isinstance(a['window_size'], float):
            return True
        if a['down_sample_mode'] == 'mean' or not 0 <= a['attn_drop_ratio'] < 1:
            return True
    return False


def refused_map(case):
    """What check_input says, or nothing."""
    if len(case.shape) != 4:
        return r'takes a feature map \(B, C, H, W\)'
    if case.shape[1] != case.arguments['dim']:
        return 'was built for dim='
    if not case.dtype.is_floating_point:
        return 'takes a map of floating-point numbers'
    if 0 in case.shape[2:]:
        return 'needs at least one pixel'
    return ''


def is_reference(case):
    return case.backend == 'reference' and case.kind is SCSA


def crashes_pytorch(case):
    """Whether torch 2.1 may end the process: tokens channels last that need no gradient."""
    learns = case.grad in ('grad', 'create_graph')
    return VERSION < (2, 2) and is_reference(case) and case.layout == 'last' and learns


def refused_by_pytorch(case, error):
    """Whether docs/reliability.md lists this error of PyTorch's own for such a case."""
    window = case.arguments.get('window_size', 1)
    if is_reference(case):  # as the published module
        if case.dtype != case.of_parameters or min(case.shape[2:]) < window or not case.shape[0]:
            return True
        if case.autocast and case.dtype in HALF and case.autocast != case.dtype:
            return True
        if 'Expected more than 1 value per channel' in error:  # of one image of one pixel
            return True
    second = case.kind is PCSA and case.grad == 'create_graph'
    if second and 'scaled_dot_product' in error and 'derivative' in error:
        return True
    lacking = case.dtype == torch.float16 and VERSION < (2, 2)
    if lacking and "not implemented for 'Half'" in error:
        return True
    joined = case.autocast and case.of_parameters in HALF and case.autocast != case.of_parameters
    return joined and case.kind is not SCSA and 'autocast' in error


# The formulas


def formulas(case, module, x):
    """SMSA, PCSA or both, as the paper has them; a map smaller than the window is one window."""
    softmax = module.gate_layer == 'softmax'
    if case.kind is not PCSA:
        convs = (module.local_dwc, module.global_dwc_s, module.global_dwc_m, module.global_dwc_l)
        gates = []
        for strip, norm in ((x.mean(3), module.norm_h), (x.mean(2), module.norm_w)):
            u = torch.cat([f(part) for f, part in zip(convs, strip.chunk(4, 1))], 1)
            u = torch.group_norm(u, 4, norm.weight, norm.bias)  # also of one value
            gates.append(u.softmax(2) if softmax else u.sigmoid())
        x = x * gates[0].unsqueeze(3) * gates[1].unsqueeze(2)
    if case.kind is SMSA:
        return x
    batch, channels, height, width = x.shape
    size, heads, mode = module.window_size, module.head_num, module.down_sample_mode
    if size == -1:
        y = x.mean((2, 3), keepdim=True)
    elif mode == 'recombination':
        y = F.pad(x, [0, max(0, size - width), 0, max(0, size - height)])
        y = F.conv2d(y, module.conv_d.weight.view(channels, channels, size, size), stride=size)
    else:
        pool = F.avg_pool2d if mode == 'avg_pool' else F.max_pool2d
        y = pool(x, (min(size, height), min(size, width)))
    # Flat: torch 2.1 crashes at the gradient of tokens that lie channels last and need none. A map
    # of one token keeps that layout in contiguous().
    y = torch.group_norm(y.flatten(2), 1, module.norm.weight, module.norm.bias).unsqueeze(3)
    q, k, v = (f(y).reshape(batch, heads, channels // heads, -1) for f in
               (module.q, module.k, module.v))  # fmt: skip
    attn = (q @ k.transpose(2, 3) * (channels // heads) ** -0.5).softmax(3)
    gate = (attn @ v).mean(3).reshape(batch, channels, 1, 1)
    return x * (gate.softmax(1) if softmax else gate.sigmoid())


# One example


def lay_out(case, base):
    """A map from a tensor; both know the same gradients."""
    if case.layout == 'last' and base.dim() == 4:
        return base.contiguous(memory_format=torch.channels_last)
    if base.dim() != 4 or case.layout == 'contiguous':
        return base
    if case.layout == 'transposed':
        return base.transpose(2, 3).contiguous().transpose(2, 3)
    if case.layout == 'sliced':
        return F.pad(base, [1, 2, 1, 0])[:, :, 1:, 1:-2]
    if case.layout == 'step':
        return torch.stack([base, base + 1], 4).flatten(3)[..., ::2]
    return base[:, :, :1, :].expand(base.shape)  # rows that are one in memory


def differentiate(case, function, module, base):
    """The output and the gradients that were asked for."""
    leaves = [base, *module.parameters()]
    for i, leaf in enumerate(leaves):
        leaf.requires_grad_(bool(case.trained >> i & 1) and case.grad in ('grad', 'create_graph'))
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    mode = {'no_grad': torch.no_grad, 'inference': torch.inference_mode}
    with mode.get(case.grad, contextlib.nullcontext)():
        x = lay_out(case, base)
        before = x.detach().clone()
        out = function(module, x)
        assert torch.equal(before, x.detach()), 'the map was changed'
    assert out.shape == x.shape
    if not (is_reference(case) and case.autocast):  # which then gives what PyTorch gives
        assert out.dtype == x.dtype
    assert out.requires_grad == bool(wanted)
    if not wanted:
        return out.detach(), []
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape).cos()
    loss = (out.double() * weight).sum()
    if case.grad == 'grad':
        return out.detach(), [g.detach() for g in torch.autograd.grad(loss, wanted)]
    first = torch.autograd.grad(loss, wanted, create_graph=True)
    loss = sum(g.double().square().sum() for g in first)
    found = list(torch.autograd.grad(loss, wanted, allow_unused=True)) if loss.requires_grad else []
    found = [torch.zeros_like(t) if g is None else g for g, t in zip(found, wanted)]
    return out.detach(), [g.detach() for g in (*first, *found)]


def call(case, module, x):
    use = contextlib.nullcontext()
    if case.autocast:
        use = torch.autocast('cpu', dtype=case.autocast)
    with use, backend(case.backend):
        return module(x)


def bound_of(case, gradients=False):
    """Of the type that is the least exact of those that matter."""
    types = [case.dtype]
    if gradients:
        types.append(case.of_parameters)
    return max(BOUND[dtype] for dtype in types)


def try_one(case):
    """What came of it; raises AssertionError where that is not as promised."""
    if refused_arguments(case):
        with pytest.raises(ValueError):
            case.kind(**case.arguments)
        return 'arguments refused'
    if crashes_pytorch(case):
        return 'not tried: PyTorch crashes'
    module = case.kind(**case.arguments, dtype=case.of_parameters).train(case.training)
    generator = torch.Generator().manual_seed(case.seed)
    for name, parameter in module.named_parameters():
        centre = 1.0 if 'norm' in name and name.endswith('weight') else 0.0
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = (centre + 0.4 * values).to(parameter.dtype)
    values = torch.randn(case.shape, generator=generator, dtype=torch.float64) * case.scale
    base = values.to(case.dtype)
    message = refused_map(case)
    if message:
        with pytest.raises(ValueError, match=message):
            call(case, module, base)
        return 'map refused'
    if case.kind is SCSA and case.backend == 'triton' and case.shape[0]:
        reason = dispatch.why_not_triton(base)
        if reason:
            with pytest.raises(RuntimeError, match="SCSA backend 'triton': "):
                call(case, module, base)
            return 'triton refused'
    # These convolve in half precision, and a norm over few values makes much of what is rounded.
    rough = case.autocast and (case.kind is not SCSA or is_reference(case))
    rough = rough or (is_reference(case) and case.dtype in HALF)
    dropout = case.training and case.arguments.get('attn_drop_ratio', 0.0) > 0
    try:
        torch.manual_seed(case.seed)
        out, found = differentiate(case, lambda m, x: call(case, m, x), module, base.clone())
    except (RuntimeError, ValueError) as error:
        if not refused_by_pytorch(case, str(error)):
            raise
        return "PyTorch's own error"
    if not out.numel():
        return 'empty'
    exact = copy.deepcopy(module).double()
    expected, gradients = differentiate(
        case, lambda m, x: formulas(case, m, x), exact, base.double()
    )
    assert out.isfinite().all()
    if dropout:  # other numbers each time, but the same from the same random state
        torch.manual_seed(case.seed)
        again, _ = differentiate(case, lambda m, x: call(case, m, x), module, base.clone())
        assert torch.equal(out, again)
        return 'dropout repeated'
    if rough:
        return 'finite, of half precision'
    bound = bound_of(case)
    error = (out.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
    assert error <= bound, f'output off by {error:.1e}'
    if not gradients:
        return 'output equal'
    bound = 10 * bound_of(case, gradients=True)
    # Which of two equal values is the larger, rounding decides.
    ties = case.arguments.get('down_sample_mode') == 'max_pool' and (
        case.layout == 'expanded' or bound > 10 * BOUND[torch.float32]
    )
    second = case.grad == 'create_graph' and bound > 10 * BOUND[torch.float64]
    if ties or second:
        return 'output equal, gradients there'
    # Some are zero but for rounding, in a few examples all of them.
    largest = max(t.abs().max() for t in (expected, *gradients))
    error = max((a.double() - b).abs().max() for a, b in zip(found, gradients)) / largest
    assert error <= bound, f'gradients off by {error:.1e}'
    return 'output and gradients equal'


@pytest.fixture(scope='module', autouse=True)
def few_programs():
    """For Triton's interpreter; and a report of what came of the examples."""
    with pytest.MonkeyPatch.context() as patch:
        if dispatch.triton_version() >= dispatch.OLDEST_TRITON:
            passes = importlib.import_module('scsa.ops.passes.triton')
            patch.setattr(passes, 'PROGRAMS', 4)
        yield
    print(f'\ntorch {torch.__version__}, seed {SEED}: {dict(outcomes.most_common())}')


@seed(SEED)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(cases())
def test_numbers_or_a_known_error(case):
    outcomes[try_one(case)] += 1


# Found by it


@pytest.mark.parametrize('size', [(1, 1), (1, 3)])
@pytest.mark.parametrize('training', [False, True])
def test_one_value_in_a_group_of_the_norm(size, training):
    """F.group_norm refuses that of a single image; a norm of one value is its bias."""
    module = SCSA(4, window_size=2).train(training)
    x = torch.randn(2, 4, *size)
    for name in ('auto', 'eager'):
        with backend(name):
            assert torch.allclose(module(x[:1]), module(x)[:1], atol=1e-6)
    for part in (SMSA(4), PCSA(1)):
        assert part(x[:1, : part.dim]).shape == (1, part.dim, *size)


@pytest.mark.parametrize('window', [2, 6])
@pytest.mark.parametrize('mode', ['avg_pool', 'max_pool', 'recombination'])
def test_tokens_that_lie_channels_last_and_need_no_gradient(mode, window):
    """As behind a frozen stem: torch 2.1's gradient of the norm ended the process."""
    module = PCSA(8, window_size=window, down_sample_mode=mode)
    x = torch.randn(2, 8, 6, 6)
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        module.zero_grad(set_to_none=True)
        module.requires_grad_(False).norm.requires_grad_(True)
        module(x.contiguous(memory_format=layout)).square().sum().backward()
        gradients.append(module.norm.weight.grad)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-6)

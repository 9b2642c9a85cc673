"""Half precision, autocast, values at the ends of a type, faults in one sample, determinism.

What a path cannot do is said in the table of docs/reliability.md; `paths` below holds it.
"""

import contextlib
import importlib
import random

import pytest
import torch
from test_ops.fast_cases import distance, random_map, random_module
from torch import nn

from scsa import SCSA, backend
from scsa.attention import scsa_reference
from scsa.ops import dispatch

VERSION = tuple(int(part) for part in torch.__version__.split('+')[0].split('.')[:2])
HALF = (torch.float16, torch.bfloat16)
MODES = ('avg_pool', 'max_pool', 'recombination')


def eager(module, x):
    return module(x)


def plain(module, x):
    """What compiled, scripted, traced and exported modules compute."""
    return module.channel_attention(module.spatial_attention(x))


def triton(module, x):
    with backend('triton'):
        return module(x)


PATHS = {'eager': eager, 'plain': plain, 'reference': scsa_reference, 'triton': triton}


@pytest.fixture(params=list(PATHS))
def path(request, monkeypatch):
    if request.param == 'triton':
        if not torch.cuda.is_available():
            monkeypatch.setenv('TRITON_INTERPRET', '1')
        if dispatch.triton_version() < dispatch.OLDEST_TRITON:
            pytest.skip('no Triton that runs the kernels')
        passes = importlib.import_module('scsa.ops.passes.triton')
        if not torch.cuda.is_available() and isinstance(
            passes.strips_kernel, importlib.import_module('triton').JITFunction
        ):
            pytest.skip('Triton was imported for a GPU')
        monkeypatch.setattr(passes, 'PROGRAMS', 4)  # the interpreter takes its time for each
    return request.param


def autocast(dtype):
    if dtype is None:
        return contextlib.nullcontext()
    if dtype == torch.float16 and VERSION < (2, 4):
        pytest.skip('no float16 autocast on the CPU before torch 2.4')
    return torch.autocast('cpu', dtype=dtype)


def build(dtype=torch.float32, dim=16, **options):
    module = SCSA(dim, **options)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.5, 1.0)
    return module.to(dtype)


def run(path, module, x, autocast_dtype=None):
    """The output, the gradient of the map and those of the parameters, of the sum."""
    x = x.detach().requires_grad_()
    module.zero_grad(set_to_none=True)
    with autocast(autocast_dtype):
        out = PATHS[path](module, x)
    out.sum(dtype=torch.promote_types(out.dtype, torch.float32)).backward()
    return [out.detach(), x.grad, *(p.grad for p in module.parameters())]


def maps(dtype, sizes):
    """Of the scales 1e-4 to 1e4, constant, zero, and of numbers below the smallest normal one."""
    limits = torch.finfo(dtype)
    for size in sizes:
        shape = (2, 16, *size)
        for scale in (1e-4, 1.0, 1e4):
            yield f'scaled by {scale} {size}', (torch.randn(shape) * scale).to(dtype)
        yield f'constant {size}', torch.full(shape, 3.0, dtype=dtype)
        yield f'large constant {size}', torch.full(shape, 1e4, dtype=dtype)
        yield f'zero {size}', torch.zeros(shape, dtype=dtype)
        denormal = (torch.randn(shape, dtype=torch.float64) * (limits.tiny / 8)).to(dtype)
        assert 0 < denormal.abs().max() < limits.tiny
        yield f'denormal {size}', denormal


TYPES = {
    'float32': (torch.float32, torch.float32, None),
    'float16': (torch.float16, torch.float16, None),
    'bfloat16': (torch.bfloat16, torch.bfloat16, None),
    # As autocast gives maps: of half precision behind a convolution, else float32.
    'float16 map, autocast': (torch.float16, torch.float32, torch.float16),
    'float32 map, float16 autocast': (torch.float32, torch.float32, torch.float16),
    'bfloat16 map, autocast': (torch.bfloat16, torch.float32, torch.bfloat16),
    'float32 map, bfloat16 autocast': (torch.float32, torch.float32, torch.bfloat16),
    'float16 map, float32 parameters': (torch.float16, torch.float32, None),
}


def cannot(path, types, mode, window):
    """Why a path does not promise this, or is not asked here; or nothing."""
    asked = ('float32', 'float16 map, autocast')
    if path == 'triton' and (window < 0 or mode != 'avg_pool' or types not in asked):
        return 'the same code as eager but for the passes; the interpreter takes long'
    half = torch.float16 in TYPES[types]
    if path in ('plain', 'reference') and half and 'autocast' in types:
        return 'its convolutions are in float16 then'
    if path == 'reference' and half:
        return 'the published formulation sums in float16'
    if half and mode == 'max_pool' and window > 0 and VERSION < (2, 2):
        return 'no max_pool2d of float16 on the CPU'
    if path == 'plain' and half and mode == 'avg_pool' and window > 0 and VERSION < (2, 2):
        return 'no avg_pool2d of float16 on the CPU'
    return ''


@pytest.mark.parametrize('types', list(TYPES))
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('window', [-1, 3])
def test_finite(path, types, mode, window):
    """Also maps of one pixel; at 1e4 the sum of seven pixels is beyond float16."""
    reason = cannot(path, types, mode, window)
    if reason:
        pytest.skip(reason)
    dtype, of_parameters, autocast_dtype = TYPES[types]
    sizes = [(9, 3), (3, 3)] if path == 'reference' else [(4, 9), (1, 1)]
    for gate in ('sigmoid',) if path == 'triton' else ('sigmoid', 'softmax'):
        module = build(
            of_parameters, window_size=window, down_sample_mode=mode, gate_layer=gate, head_num=2
        )
        asked = list(maps(dtype, sizes))
        for name, x in asked[2::4] if path == 'triton' else asked:
            found = run(path, module, x, autocast_dtype)
            for i, tensor in enumerate(found):
                if tensor.isfinite().all():
                    continue
                # Only a gradient of a parameter that its type cannot hold.
                exact = run('eager', build_like(module), x.double())[i]
                largest = exact.abs().max() / torch.finfo(tensor.dtype).max
                assert i > 1 and largest > 1, (gate, name, i)


def build_like(module):
    copy = SCSA(
        module.dim,
        module.head_num,
        module.window_size,
        module.group_kernel_sizes,
        down_sample_mode=module.down_sample_mode,
        gate_layer=module.gate_layer,
        dtype=torch.float64,
    )
    copy.load_state_dict(module.state_dict())
    return copy


@pytest.mark.parametrize('kind', HALF)
def test_parameters_of_the_other_half_precision_under_autocast(kind):
    """PyTorch refuses to join them ("Unexpected floating ScalarType in at::autocast")."""
    other = HALF[1 - HALF.index(kind)]
    module, x = build(other), torch.randn(2, 16, 8, 9).to(other)
    expected = module(x)
    with autocast(kind):
        assert torch.equal(module(x), expected)


@pytest.mark.parametrize('size', [(21, 5), (2, 9), (9, 9)])
def test_recombination_in_bfloat16(size):
    """On some CPUs torch 2.13's convolution with the window as stride found NaN here, in most."""
    for seed in range(60):
        torch.manual_seed(seed)
        module = SCSA(32, window_size=3, down_sample_mode='recombination').bfloat16()
        x = torch.randn(2, 32, *size).bfloat16()
        expected = build_like(module)(x.double())
        for path in ('eager', 'plain'):
            found = run(path, module, x)
            assert all(tensor.isfinite().all() for tensor in found)
            assert distance(found[0], expected) < 2e-2


FAULTS = {'nan': float('nan'), 'inf': float('inf'), 'minus inf': float('-inf')}
# Of the attention: matrices, one kernel, and the power series of one token.
CASES = [
    dict(dim=16, window_size=3, size=(7, 9)),
    dict(dim=16, window_size=3, size=(6, 6), head_num=2),
    dict(dim=16, window_size=-1, size=(6, 7)),
    dict(dim=256, window_size=-1, size=(3, 3)),
    dict(dim=512, window_size=3, size=(3, 3)),
    dict(dim=16, window_size=3, size=(7, 6), down_sample_mode='max_pool'),
    dict(dim=16, window_size=3, size=(7, 6), down_sample_mode='recombination'),
    dict(dim=16, window_size=3, size=(7, 9), gate_layer='softmax'),
]


@pytest.mark.parametrize('fault', list(FAULTS))
@pytest.mark.parametrize('case', CASES, ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_fault_stays_in_its_sample(path, fault, case, dtype):
    """The others get the numbers that they get without it, to rounding."""
    options = {key: value for key, value in case.items() if key != 'size'}
    if path == 'triton' and (case is not CASES[0] or dtype != torch.float32 or fault != 'nan'):
        pytest.skip('the same code as eager but for the passes; the interpreter takes long')
    module = build(dtype, **options)
    clean = torch.randn(3, options['dim'], *case['size']).to(dtype)
    whole, pixel = clean.clone(), clean.clone()
    whole[1] = FAULTS[fault]
    pixel[1, 3, 1, 1] = FAULTS[fault]
    expected = run(path, module, clean)
    with torch.no_grad():
        at_rest = PATHS[path](module, pixel)
    for x in (whole, pixel):
        found = run(path, module, x)
        assert not found[0][1].isfinite().all(), 'the fault is to be seen'
        for sample in (0, 2):
            for a, b in zip(found[:2], expected[:2]):
                assert distance(a[sample], b[sample]) < (1e-5 if dtype == torch.float32 else 4e-2)
    assert distance(at_rest[0], expected[0][0]) < 4e-2
    assert distance(at_rest[2], expected[0][2]) < 4e-2


@pytest.mark.parametrize('mode', MODES)
def test_a_fault_stays_in_its_sample_compiled(mode):
    torch._dynamo.reset()
    module = build(window_size=3, down_sample_mode=mode)
    compiled = torch.compile(module, backend='aot_eager', fullgraph=True)
    clean = torch.randn(3, 16, 7, 9)
    broken = clean.clone()
    broken[1, 3, 1, 1] = float('nan')
    results = []
    for x in (clean, broken):
        x.requires_grad_()
        out = compiled(x)
        out.sum().backward()
        results.append((out.detach(), x.grad))
    assert not results[1][0][1].isfinite().all()
    for a, b in zip(*results):
        assert torch.equal(a[[0, 2]], b[[0, 2]])


@pytest.mark.skipif(VERSION < (2, 4), reason='torch.amp.GradScaler came with torch 2.4')
@pytest.mark.parametrize('mode', MODES)
def test_the_gradient_scaler_finds_an_overflow_and_recovers(mode):
    """Of SCSA alone: no other parameter is trained, so that none else could tell it."""
    conv = nn.Conv2d(3, 16, 3, padding=1).requires_grad_(False)
    module = SCSA(16, window_size=3, down_sample_mode=mode)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    scaler = torch.amp.GradScaler('cpu', init_scale=2.0**60, backoff_factor=2.0**-16)
    x, target = torch.randn(2, 3, 8, 9), torch.randn(2, 16, 8, 9)
    skipped, losses = 0, []
    for _ in range(30):
        before, scale = [p.detach().clone() for p in module.parameters()], scaler.get_scale()
        with torch.autocast('cpu', dtype=torch.float16):
            out = module(conv(x))
            assert out.dtype == torch.float16
            loss = (out.float() - target).square().mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        same = all(torch.equal(a, b) for a, b in zip(before, module.parameters()))
        overflow = scaler.get_scale() < scale
        assert same == overflow, 'a step is left out where, and only where, something overflowed'
        assert all(p.isfinite().all() for p in module.parameters())
        skipped += overflow
        if not overflow:
            losses.append(loss.item())
    assert skipped > 1 and len(losses) > 10
    assert losses[-1] < losses[0]


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize('seed', range(6))
def test_deterministic_algorithms_give_equal_bits(path, deterministic, seed):
    """Nothing that SCSA calls is refused then, and a second run gives what the first gave."""
    if path == 'triton' and seed:
        pytest.skip('the interpreter takes long')
    draw = random.Random(seed)
    module = random_module(draw, dim=16, attn_drop_ratio=draw.choice((0.0, 0.3)))
    dtype = torch.float32
    if path in ('eager', 'plain') and seed % 3 == 0:
        dtype = torch.bfloat16
    module.to(dtype)
    x = random_map(draw, module, dtype)
    results = []
    for _ in range(2):
        torch.manual_seed(seed)
        results.append(run(path, module, x))
    assert all(torch.equal(a, b) for a, b in zip(*results))

"""The switch between the paths."""

import os
import subprocess
import sys
import warnings
from types import ModuleType

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import scsa
from scsa import ops
from scsa.attention import SCSA, scsa_reference
from scsa.ops import dispatch, first_use
from scsa.ops.passes import torch as torch_passes


def test_holds_inside_the_block_only():
    x = torch.randn(1, 8, 7, 7)
    assert ops.path_for(x) == 'auto'
    with scsa.backend('reference'):
        assert ops.path_for(x) == 'reference'
        with scsa.backend('eager'):
            assert ops.path_for(x) == 'eager'
        assert ops.path_for(x) == 'reference'
    with pytest.raises(KeyError), scsa.backend('reference'):
        raise KeyError
    assert ops.path_for(x) == 'auto'


def test_reference_is_the_reference():
    module, x = SCSA(16), torch.randn(2, 16, 14, 14)
    with scsa.backend('reference'):
        assert torch.equal(module(x), scsa_reference(module, x))


def test_unknown_names_are_refused():
    refused = pytest.raises(ValueError, match=r"'fastest' is unknown; use one of .*'eager'")
    with refused, scsa.backend('fastest'):
        pass


@pytest.mark.parametrize(('value', 'expected'), [('reference', 'reference'), ('eager', 'eager')])
def test_environment_variable(value, expected):
    found = ask(value)
    assert found.returncode == 0 and found.stdout.split()[-1] == expected


def test_a_wrong_environment_variable_says_so():
    found = ask('fast')
    assert found.returncode == 1 and "'fast' is unknown; use one of" in found.stderr


def ask(value):
    code = 'import torch; from scsa.ops import path_for; print(path_for(torch.ones(1)))'
    return subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'SCSA_BACKEND': value, 'SCSA_REGISTER': '0'},
        capture_output=True,
        text=True,
    )


def test_other_devices_take_the_plain_composition():
    assert ops.path_for(torch.ones(1, device='meta')) == 'plain'
    module = SCSA(8).to('meta')
    assert module(torch.ones(2, 8, 9, 9, device='meta')).shape == (2, 8, 9, 9)


@pytest.mark.parametrize(
    ('options', 'x', 'message'),
    [
        (dict(), torch.ones(1, 8, 7, 7), "needs a map on a GPU, got one on 'cpu'"),
        (dict(), torch.ones(1, 8, 7, 7).double(), 'got torch.float64'),
        (dict(), torch.ones(1, 8, 1, 1025), 'takes maps of up to 1024 columns'),
    ],
)
def test_triton_runs_or_says_why_not(monkeypatch, options, x, message):
    monkeypatch.setattr(dispatch, 'triton_version', lambda: (3, 3))
    if 'on a GPU' not in message:
        monkeypatch.setenv('TRITON_INTERPRET', '1')
    else:
        monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    with pytest.raises(RuntimeError, match=message), scsa.backend('triton'):
        SCSA(8, **options)(x)


@pytest.mark.parametrize('version', [(), (2, 1), (3, 2)])
def test_old_triton_is_refused(monkeypatch, version):
    monkeypatch.setattr(dispatch, 'triton_version', lambda: version)
    with pytest.raises(RuntimeError, match=r'needs Triton 3\.3 or newer'), scsa.backend('triton'):
        SCSA(8)(torch.ones(1, 8, 7, 7))


class OnGPU:
    """As much of a map on a GPU as the choice of a path looks at."""

    is_cuda, device, dtype = True, 'cuda:0', torch.float32

    def __init__(self, *shape, dtype=torch.float32):
        self.like, self.dtype = torch.empty(shape, device='meta'), dtype

    def __getattr__(self, name):
        return getattr(self.like, name)

    def __getitem__(self, index):
        return self.like[index]


@pytest.fixture
def fake_gpu(monkeypatch):
    """A GPU and a Triton that can run there; the kernels are a module that nobody calls."""
    kernels = ModuleType('scsa.ops.passes.triton')
    monkeypatch.setitem(sys.modules, kernels.__name__, kernels)
    monkeypatch.setattr('scsa.ops.passes.triton', kernels, raising=False)
    monkeypatch.setattr(dispatch, 'triton_version', lambda: (3, 3))
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (8, 0))
    monkeypatch.setattr(torch.version, 'hip', None)
    monkeypatch.setattr(dispatch, 'TRITON_IN_AUTO', True)
    monkeypatch.setattr(dispatch, '_checked', {'cuda:0'})
    monkeypatch.setattr(dispatch, '_failure', None)
    return kernels


@pytest.mark.parametrize(
    ('x', 'version', 'capability', 'expected'),
    [
        (OnGPU(2, 8, 7, 7), (3, 3), (8, 0), True),
        (OnGPU(2, 8, 7, 7), (), (8, 0), False),  # no Triton
        (OnGPU(2, 8, 7, 7), (2, 1), (8, 0), False),  # that of torch 2.1
        (OnGPU(2, 8, 7, 7), (3, 3), (6, 1), False),
        (OnGPU(2, 8, 7, 7, dtype=torch.float64), (3, 3), (8, 0), False),
        (OnGPU(0, 8, 7, 7), (3, 3), (8, 0), False),
        (OnGPU(1, 64, 2**15, 2**10), (3, 3), (8, 0), False),  # 2**31 values
        (OnGPU(9, 32, 2**15, 2**10), (3, 3), (8, 0), True),  # many images of half as many
        (OnGPU(1, 8, 7, 5000), (3, 3), (8, 0), False),
    ],
)
def test_auto_takes_the_kernels_where_they_can_run(
    fake_gpu, monkeypatch, x, version, capability, expected
):
    monkeypatch.setattr(dispatch, 'triton_version', lambda: version)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    assert dispatch.passes_for(x) is (fake_gpu if expected else torch_passes)
    with scsa.backend('eager'):
        assert dispatch.passes_for(x) is torch_passes


def test_auto_takes_no_kernels_that_make_networks_no_faster(fake_gpu, monkeypatch):
    monkeypatch.undo()
    assert not dispatch.TRITON_IN_AUTO
    assert dispatch.passes_for(OnGPU(2, 8, 7, 7)) is torch_passes


# What can fail of the Triton path, and where.
FAILURES = {
    'import': ('import', ImportError('no module named triton._C')),
    'C compiler': ('strips', RuntimeError('Failed to find C compiler')),
    'cache': ('strips', PermissionError('cannot write the cache')),
    'compile': ('tokens', RuntimeError('PassManager::run failed')),
    'compile, not a RuntimeError': ('apply', ValueError('unsupported type')),
    'resources': ('apply', RuntimeError('out of resources: shared memory')),
    'launch': ('strips', RuntimeError('Triton Error [CUDA]: invalid argument')),
    'compile of the backward': ('prepare_backward', RuntimeError('PassManager::run failed')),
    'backward, resources': ('products', RuntimeError('out of resources: registers')),
    'backward, launch': ('gates_backward', RuntimeError('Triton Error [CUDA]: unknown')),
    'wrong output': ('apply', 1.01),
    'wrong gradient': ('map_backward', 1.01),
}


@pytest.fixture
def kernels_on_cpu(fake_gpu, monkeypatch):
    """PyTorch's passes in the place of the kernels, on the CPU, chosen by `auto`."""
    names = ('strips', 'tokens', 'apply', 'products', 'gates_backward', 'map_backward', 'dense')
    for name in (*names, 'prepare_backward'):
        setattr(fake_gpu, name, getattr(torch_passes, name))

    monkeypatch.setattr(dispatch, 'why_not_triton', lambda x: '')
    monkeypatch.setattr(dispatch, '_checked', set())
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    monkeypatch.setattr(dispatch, 'wants_triton', lambda x: dispatch._failure is None)
    return fake_gpu


def train(steps=3):
    torch.manual_seed(0)
    module, x = SCSA(8), torch.randn(2, 8, 14, 15)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def break_it(kernels, monkeypatch, where, how):
    def fail(*args, **kwargs):
        raise how

    if where == 'import':
        monkeypatch.setitem(sys.modules, 'scsa.ops.passes.triton', None)
        monkeypatch.delattr('scsa.ops.passes.triton')
    elif isinstance(how, Exception):
        setattr(kernels, where, fail)
    else:
        right = getattr(kernels, where)

        def wrong(*args, **kwargs):
            return right(*args, **kwargs).mul_(how)

        setattr(kernels, where, wrong)


@pytest.mark.parametrize('failure', FAILURES)
def test_a_failure_of_the_kernels_leaves_the_numbers_of_the_eager_path(
    kernels_on_cpu, monkeypatch, failure
):
    with scsa.backend('eager'):
        expected = train()
    break_it(kernels_on_cpu, monkeypatch, *FAILURES[failure])
    with pytest.warns(UserWarning, match='Triton kernels of SCSA are off') as warned:
        assert torch.equal(train(), expected)
    assert len([w for w in warned if 'SCSA' in str(w.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert torch.equal(train(), expected)  # nor is it tried again


@pytest.mark.parametrize('failure', FAILURES)
def test_asked_for_by_name_the_kernels_fail_with_the_cause(kernels_on_cpu, monkeypatch, failure):
    where, how = FAILURES[failure]
    break_it(kernels_on_cpu, monkeypatch, where, how)
    cause = 'wrong numbers' if isinstance(how, float) else str(how)[:20]
    if where == 'import':
        cause = 'triton'
    failed = pytest.raises(RuntimeError, match="backend 'triton' failed")
    with failed as found, scsa.backend('triton'):
        train()
    assert cause in str(found.value)


def test_dropout_of_a_step_that_is_done_again_fits_its_gradient(kernels_on_cpu, monkeypatch):
    module, x = SCSA(8, attn_drop_ratio=0.5), torch.randn(1, 8, 14, 14, requires_grad=True)

    def step():
        return torch.autograd.grad(module(x).square().sum(), x)[0]

    torch.manual_seed(1)
    with scsa.backend('eager'), torch.no_grad():
        module(x)  # draws what the step that fails draws
    with scsa.backend('eager'):
        expected = step()
    monkeypatch.setattr(dispatch, '_checked', {x.device})
    break_it(kernels_on_cpu, monkeypatch, *FAILURES['resources'])
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match='are off'):
        assert torch.equal(step(), expected)


def test_kernels_that_work_stay_on_and_are_checked_once(kernels_on_cpu, monkeypatch):
    calls = []
    monkeypatch.setattr(first_use, 'results', counted(first_use.results, calls))
    used = []
    kernels_on_cpu.apply = counted(torch_passes.apply, used)
    with scsa.backend('eager'):
        expected = train()
    assert not used
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert torch.equal(train(), expected)
    assert used and len(calls) == 2 * len(first_use.SIZES)


def counted(function, calls):
    return lambda *args: calls.append(args) or function(*args)


@pytest.mark.parametrize('name', ['auto', 'eager', 'triton'])
def test_what_is_no_plain_tensor_takes_the_plain_composition(name):
    module, x = SCSA(8), torch.randn(1, 8, 7, 7)

    class Subclass(torch.Tensor):
        pass

    with scsa.backend(name):
        assert dispatch.path_for(x.as_subclass(Subclass)) == 'plain'
        found = []
        torch.func.vmap(lambda t: found.append(dispatch.path_for(t)) or t)(x)
        make_fx(lambda t: found.append(dispatch.path_for(t)) or t * 1)(x)
        with FakeTensorMode() as mode:
            found.append(dispatch.path_for(mode.from_tensor(x)))
        assert found == ['plain'] * 3
        gradient = torch.func.grad(lambda t: module(t).sum())(x)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(scsa_reference(module, x).sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int64, torch.complex64])
def test_numbers_that_are_not_real_are_refused(dtype):
    with pytest.raises(ValueError, match=f'floating-point numbers, got {dtype}'):
        SCSA(8)(torch.ones(1, 8, 7, 7, dtype=dtype))

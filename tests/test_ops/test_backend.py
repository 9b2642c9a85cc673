"""The switch between the paths."""

import os
import subprocess
import sys

import pytest
import torch

import scsa
from scsa import ops
from scsa.attention import SCSA, scsa_reference


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
        env={**os.environ, 'SCSA_BACKEND': value},
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
        (dict(down_sample_mode='max_pool'), torch.ones(1, 8, 7, 7), "no kernels for 'max_pool'"),
    ],
)
def test_triton_runs_or_says_why_not(monkeypatch, options, x, message):
    monkeypatch.setattr(ops, 'triton_version', lambda: 3)
    if 'on a GPU' not in message:
        monkeypatch.setenv('TRITON_INTERPRET', '1')
    else:
        monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    with pytest.raises(RuntimeError, match=message), scsa.backend('triton'):
        SCSA(8, **options)(x)


@pytest.mark.parametrize('version', [0, 2])
def test_old_triton_is_refused(monkeypatch, version):
    monkeypatch.setattr(ops, 'triton_version', lambda: version)
    with pytest.raises(RuntimeError, match='needs Triton 3 or newer'), scsa.backend('triton'):
        SCSA(8)(torch.ones(1, 8, 7, 7))


class OnGPU:
    """As much of a map on a GPU as the choice of a path looks at."""

    is_cuda, device, dtype = True, 'cuda:0', torch.float32

    def __init__(self, *shape, dtype=torch.float32):
        self.like, self.dtype = torch.empty(shape, device='meta'), dtype

    def __getattr__(self, name):
        return getattr(self.like, name)


@pytest.mark.parametrize(
    ('x', 'version', 'capability', 'averages', 'expected'),
    [
        (OnGPU(2, 8, 7, 7), 3, (8, 0), True, True),
        (OnGPU(2, 8, 7, 7), 0, (8, 0), True, False),  # no Triton
        (OnGPU(2, 8, 7, 7), 2, (8, 0), True, False),  # that of torch 2.1
        (OnGPU(2, 8, 7, 7), 3, (6, 1), True, False),
        (OnGPU(2, 8, 7, 7), 3, (8, 0), False, False),
        (OnGPU(2, 8, 7, 7, dtype=torch.float64), 3, (8, 0), True, False),
        (OnGPU(0, 8, 7, 7), 3, (8, 0), True, False),
        (OnGPU(1, 64, 2**13, 2**12), 3, (8, 0), True, False),  # 2**31 values
        (OnGPU(9, 32, 2**13, 2**12), 3, (8, 0), True, True),  # many images of half as many
    ],
)
def test_auto_takes_the_kernels_where_they_can_run(
    monkeypatch, x, version, capability, averages, expected
):
    monkeypatch.setattr(ops, 'TRITON_IN_AUTO', True)
    monkeypatch.setattr(ops, 'triton_version', lambda: version)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    monkeypatch.setattr(torch.version, 'hip', None)
    assert ops.use_triton(x, averages, 'auto') is expected
    assert not ops.use_triton(x, averages, 'eager')


def test_auto_takes_no_kernels_that_no_gpu_has_run(monkeypatch):
    monkeypatch.setattr(ops, 'triton_version', lambda: 3)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (8, 0))
    monkeypatch.setattr(torch.version, 'hip', None)
    assert not ops.use_triton(OnGPU(2, 8, 7, 7), True, 'auto')
    assert ops.use_triton(OnGPU(2, 8, 7, 7), True, 'triton')


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int64, torch.complex64])
def test_numbers_that_are_not_real_are_refused(dtype):
    with pytest.raises(ValueError, match=f'floating-point numbers, got {dtype}'):
        SCSA(8)(torch.ones(1, 8, 7, 7, dtype=dtype))

"""The eager path against the reference: results, memory, layouts, and what training does to it."""

import copy
import random

import pytest
import torch
from fast_cases import (
    STAGES,
    distance,
    output_and_gradients,
    random_map,
    random_module,
    reference,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from scsa.attention import SCSA, scsa_reference
from scsa.benchmark.timing import bytes_kept
from scsa.ops import small
from scsa.ops.function import SCSAFunction
from scsa.ops.small import kernel_backward

CHANNELS_LAST = torch.channels_last


@pytest.mark.parametrize(
    ('dtype', 'of_output', 'of_gradients', 'seed'),
    # Maps in float32 are summed in another way than those in float64.
    [(torch.float64, 1e-12, 1e-12, seed) for seed in range(100)]
    + [(torch.float32, 1e-5, 1e-4, seed) for seed in range(40)],
)
def test_equals_reference(dtype, of_output, of_gradients, seed):
    draw = random.Random(seed)
    module = random_module(draw).to(dtype)
    x = random_map(draw, module, dtype)
    found = output_and_gradients(module, module, x)
    module.double()
    expected = output_and_gradients(reference(module), module, x.double())
    scale = max(e.abs().max() for e in expected[1:])  # some are zero but for rounding
    assert distance(found[0], expected[0]) < of_output
    for a, b in zip(found[1:], expected[1:]):
        assert (a - b).abs().max() / scale < of_gradients


@pytest.mark.parametrize('seed', range(40))
def test_the_same_where_no_gradient_is_recorded(seed):
    draw = random.Random(seed)
    dtype = draw.choice((torch.float64, torch.float32, torch.float32, torch.bfloat16))
    module = random_module(draw, attn_drop_ratio=draw.choice((0.0, 0.3))).to(dtype)
    x = random_map(draw, module, dtype)
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=draw.random() < 0.5):
        torch.manual_seed(seed)
        expected = module(x)
        torch.manual_seed(seed)
        with torch.no_grad():
            found = module(x)
    assert torch.equal(found, expected) and found.stride() == expected.stride()
    assert not found.requires_grad and not found.is_inference()
    weight = torch.ones_like(found, requires_grad=True)
    (found * weight).sum().backward()  # what a frozen backbone gives goes on to be trained upon
    assert torch.equal(weight.grad, found)


@pytest.mark.parametrize('layout', [torch.contiguous_format, CHANNELS_LAST])
@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize(('channels', 'size'), STAGES)
def test_precision_against_float64(channels, size, dtype, tolerance, layout):
    torch.manual_seed(0)
    module = SCSA(channels)
    x = torch.randn(2, channels, size, size).to(dtype).contiguous(memory_format=layout)
    found = output_and_gradients(module, module, x)  # parameters in float32, as under autocast
    expected = output_and_gradients(reference(module.double()), module, x.double())
    assert found[0].dtype == found[1].dtype == dtype
    assert distance(found[0], expected[0]) < tolerance
    assert distance(found[1], expected[1]) < tolerance


def test_the_eager_path_is_the_default(monkeypatch):
    calls = []
    apply = SCSAFunction.apply
    monkeypatch.setattr(SCSAFunction, 'apply', lambda *args: calls.append(args) or apply(*args))
    SCSA(8)(torch.randn(1, 8, 7, 7))
    assert len(calls) == 1


@pytest.mark.parametrize('layout', [torch.contiguous_format, CHANNELS_LAST])
@pytest.mark.parametrize('dropout', [0.0, 0.1])
@pytest.mark.parametrize(
    ('stage', 'published', 'limit'),
    [(0, 3.2, 1.2), (1, 3.5, 1.2), (2, 4.9, 1.4), (3, 14.5, 2.0)],
)
def test_keeps_little_for_the_backward_pass(stage, published, limit, dropout, layout):
    channels, size = STAGES[stage]
    module = SCSA(channels, attn_drop_ratio=dropout)
    x = torch.randn(16, channels, size, size).contiguous(memory_format=layout).requires_grad_()
    size = x.numel() * x.element_size()
    assert bytes_kept(module, module, x) / size <= limit
    if dropout == 0:  # the count itself is right: it finds the published module's figures
        kept = bytes_kept(reference(module), module, x)
        assert kept / size == pytest.approx(published, abs=0.15)


class Matrices(TorchDispatchMode):
    """Counts how many matrices of d rows and columns are made at a time."""

    def __init__(self, d):
        super().__init__()
        self.d, self.most = d, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.shape[-2:] == (self.d, self.d):
            self.most = max(self.most, out.numel() // self.d**2)
        return out


class FullSizeCopies(TorchDispatchMode):
    """Counts the copies of tensors as large as a map."""

    def __init__(self, numel):
        super().__init__()
        self.numel, self.found = numel, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ('clone', 'copy_', '_to_copy', 'copy') and args[0].numel() >= self.numel:
            self.found.append(name)
        return out


@pytest.mark.parametrize('mode', ['avg_pool', 'max_pool'])
@pytest.mark.parametrize('layout', [torch.contiguous_format, CHANNELS_LAST])
def test_copies_no_map_and_keeps_its_layout(layout, mode):
    module = SCSA(16, down_sample_mode=mode)
    x = torch.randn(2, 16, 28, 30).contiguous(memory_format=layout)
    grad_out = torch.randn_like(x)
    x.requires_grad_()
    with FullSizeCopies(x.numel()) as copies:
        out = module(x)
        (grad_x,) = torch.autograd.grad(out, x, grad_out)
    assert copies.found == []
    assert out.is_contiguous(memory_format=layout) and grad_x.is_contiguous(memory_format=layout)


@pytest.mark.parametrize('mode', ['avg_pool', 'max_pool', 'recombination'])
def test_second_derivatives(mode):
    torch.manual_seed(0)
    module = SCSA(
        4, head_num=2, window_size=2, group_kernel_sizes=(1, 3, 5, 3), down_sample_mode=mode
    ).double()
    x = torch.randn(2, 4, 4, 5, dtype=torch.float64, requires_grad=True)
    parameters = list(module.parameters())
    assert torch.autograd.gradgradcheck(lambda x, *_: module(x), (x, *parameters), atol=1e-4)


def test_dropout_is_drawn_once_and_as_in_the_reference():
    module = SCSA(16, head_num=2, attn_drop_ratio=0.4).double()
    x = torch.randn(2, 16, 14, 15, dtype=torch.float64)

    def seeded(function):
        def call(x):
            torch.manual_seed(3)
            out = function(x)
            torch.manual_seed(4)  # the backward pass may not depend on what is drawn meanwhile
            return out

        return output_and_gradients(call, module, x)

    for found, expected in zip(seeded(module), seeded(reference(module))):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


def test_the_backward_pass_leaves_the_random_state_alone():
    module = SCSA(8, attn_drop_ratio=0.4)
    out = module(torch.randn(1, 8, 7, 7))
    state = torch.get_rng_state()
    out.sum().backward()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('size', [(1, 1), (3, 20), (6, 6), (20, 2)])
@pytest.mark.parametrize('mode', ['avg_pool', 'max_pool', 'recombination'])
def test_small_maps_equal_the_plain_composition(mode, size):
    module = SCSA(8, down_sample_mode=mode).double()
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    found = output_and_gradients(module, module, x)
    plain = output_and_gradients(
        lambda x: module.channel_attention(module.spatial_attention(x)), module, x
    )
    for a, b in zip(found, plain):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('mode', ['avg_pool', 'max_pool', 'recombination'])
def test_no_images(mode):
    module = SCSA(8, down_sample_mode=mode)
    found = output_and_gradients(module, module, torch.randn(0, 8, 14, 14))
    assert found[0].shape == found[1].shape == (0, 8, 14, 14)
    assert all(gradient.eq(0).all() for gradient in found[2:])


def test_used_twice_and_asked_twice():
    module = SCSA(8).double()
    x = torch.randn(2, 8, 9, 9, dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(module(module(x)).sum(), x)[0]
    expected = torch.autograd.grad(scsa_reference(module, scsa_reference(module, x)).sum(), x)[0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)

    out = module(x).square().sum()
    first = torch.autograd.grad(out, x, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(out, x)[0], first)


@pytest.mark.parametrize('reentrant', [True, False])
def test_checkpointing(reentrant):
    module = SCSA(16, attn_drop_ratio=0.3).double()
    x = torch.randn(2, 16, 14, 14, dtype=torch.float64)

    def seeded(function):
        torch.manual_seed(0)
        return output_and_gradients(function, module, x)

    found = seeded(lambda x: checkpoint(module, x, use_reentrant=reentrant))
    for a, b in zip(found, seeded(module)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_autocast(dtype):
    torch.manual_seed(0)
    module = SCSA(32)
    x = torch.randn(2, 32, 14, 14).to(dtype)
    expected = output_and_gradients(reference(module), module, x.float())

    def autocast(x):
        with torch.autocast('cpu', dtype=torch.bfloat16):
            return module(x)

    found = output_and_gradients(autocast, module, x)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2  # the map keeps its type
    assert found[0].dtype == dtype
    for a, b in zip(found[:2], expected[:2]):
        assert distance(a, b) < tolerance


def test_a_module_in_half_precision():
    module = SCSA(16).bfloat16()
    x = torch.randn(2, 16, 14, 14).bfloat16()
    found = output_and_gradients(module, module, x)
    exact = copy.deepcopy(module).double()
    expected = output_and_gradients(reference(exact), exact, x.double())
    for a, b in zip(found, expected):
        assert a.dtype == torch.bfloat16 and distance(a, b) < 5e-2


@pytest.mark.parametrize('of_map', [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize('of_module', [torch.float64, torch.float32, torch.bfloat16])
def test_a_map_of_another_type_than_the_module(of_module, of_map):
    """The map decides in which type its strips and tokens are computed."""
    torch.manual_seed(0)
    module = SCSA(16, qkv_bias=True).to(of_module)
    x = torch.randn(2, 16, 14, 15).to(of_map)
    found = output_and_gradients(module, module, x)
    exact = copy.deepcopy(module).double()
    expected = output_and_gradients(reference(exact), exact, x.double())
    half = torch.bfloat16 in (of_module, of_map)
    for a, b, dtype in zip(found, expected, [of_map] * 2 + [of_module] * 99):
        assert a.dtype == dtype and distance(a, b) < (5e-2 if half else 1e-5)


def test_another_default_device():
    """What is made on the way is made where the map is."""
    module, x = SCSA(8), torch.randn(2, 8, 14, 14)
    expected = output_and_gradients(module, module, x)
    with torch.device('meta'):
        out = module(x)
        out.backward(torch.ones_like(out))
    assert torch.equal(out, expected[0])


def test_frozen_parameters_get_no_gradient():
    module = SCSA(16, qkv_bias=True).double()
    x = torch.randn(2, 16, 14, 14, dtype=torch.float64)
    expected = output_and_gradients(module, module, x)
    frozen = [module.local_dwc.weight, module.norm_h.bias, module.norm.weight]
    for parameter in frozen:
        parameter.requires_grad_(False)
    found = output_and_gradients(module, module, x)
    for parameter, a, b in zip((None, None, *module.parameters()), found, expected):
        if any(parameter is f for f in frozen):
            assert a is None
        else:
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_parameters_given_from_outside():
    """The backward pass uses the parameters of the call, not those the module has by then."""
    module = SCSA(8).double()
    other = {n: torch.randn_like(p, requires_grad=True) for n, p in module.named_parameters()}
    x = torch.randn(1, 8, 7, 7, dtype=torch.float64)
    out = torch.func.functional_call(module, other, (x,)).sum()
    found = torch.autograd.grad(out, list(other.values()))
    module.load_state_dict({n: p.detach() for n, p in other.items()})
    expected = torch.autograd.grad(scsa_reference(module, x).sum(), list(module.parameters()))
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_map_changed_before_the_backward_pass_is_noticed():
    x = torch.randn(1, 8, 7, 7, requires_grad=True) + 0
    out = SCSA(8)(x)
    x += 1
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        out.sum().backward()


@pytest.mark.parametrize('window_size', [5, -1])
@pytest.mark.parametrize('name, value', [('MANY', 16), ('IN_CACHE', 600)])
def test_the_attention_of_many_channels(name, value, window_size, monkeypatch):
    """In one kernel, and some matrices at a time: 600 values hold two of 16 x 16, not three."""
    monkeypatch.setattr(small, name, value)
    module = SCSA(32, head_num=2, window_size=window_size).double()
    x = torch.randn(3, 32, 14, 11, dtype=torch.float64)
    with Matrices(16) as matrices:
        found = output_and_gradients(module, module, x)
    assert name == 'MANY' or matrices.most == 2
    for a, b in zip(found, output_and_gradients(reference(module), module, x)):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_the_kernel_gradient_of_long_and_short_strips():
    """Strips longer than the batch times the kernel take PyTorch's own function."""
    for batch, length in ((5, 12), (1, 12)):
        strip, grad_u = torch.randn(2, batch, 3, length, dtype=torch.float64)
        kernel = torch.zeros(3, 1, 5, dtype=torch.float64, requires_grad=True)
        u = torch.nn.functional.conv1d(strip, kernel, padding=2, groups=3)
        (expected,) = torch.autograd.grad(u, kernel, grad_u)
        torch.testing.assert_close(kernel_backward(strip, grad_u, 5), expected)

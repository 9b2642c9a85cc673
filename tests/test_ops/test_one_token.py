"""The channel attention of one token: a power series, where that is exact."""

import pytest
import torch
from fast_cases import distance, output_and_gradients, reference
from torch._subclasses.fake_tensor import FakeTensorMode

from scsa.attention import SCSA
from scsa.ops import small
from scsa.ops.small import (
    LIMIT,
    converges,
    one_token_attention,
    one_token_backward,
)


def queries_keys_values(largest, dtype, offset=0.0):
    """(3, 40) each; the largest product of a query with a key, from the middle, is ``largest``."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 3, 40, dtype=torch.float64)
    k = k / (k.amax(1, keepdim=True) - k.amin(1, keepdim=True)) * 2 + offset
    q = q / q.abs().amax(1, keepdim=True) * largest
    return q.to(dtype), k.to(dtype), v.to(dtype)


@pytest.mark.parametrize('offset', [0.0, 30.0])
@pytest.mark.parametrize('largest', [0.0, 0.3, 1.0, 1.99])
@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float32, 3e-6), (torch.float64, 1e-13)], ids=['32', '64']
)
def test_equals_the_softmax(dtype, tolerance, largest, offset):
    q, k, v = queries_keys_values(largest, dtype, offset)
    assert converges(q, k)
    inputs = [t.double().requires_grad_() for t in (q.clone(), k.clone(), v.clone())]
    attn = (inputs[0].unsqueeze(2) * inputs[1].unsqueeze(1)).softmax(2)
    expected = (attn @ inputs[2].unsqueeze(2)).squeeze(2)
    grad_a = torch.randn_like(expected)
    a = one_token_attention(q, k, v)
    found = a, *one_token_backward(q, k, v, a, grad_a.to(dtype))
    for f, e in zip(found, (expected, *torch.autograd.grad(expected, inputs, grad_a))):
        assert f.dtype == dtype
        if e.any():  # without queries the keys have no gradient
            assert distance(f, e.detach()) < tolerance
        else:
            assert f.abs().max() < tolerance


def test_converges():
    assert LIMIT == 2.0
    q, k, _ = queries_keys_values(2.01, torch.float64)
    assert not converges(q, k)
    q, k, _ = queries_keys_values(1.0, torch.float64)
    for odd in (float('nan'), float('inf')):
        assert not converges(torch.full_like(q, odd), k)
        assert not converges(q, torch.where(k == k.max(), odd, k))


@pytest.mark.parametrize('strength, series', [(1.0, True), (50.0, False)])
@pytest.mark.parametrize(
    'heads, d, window_size, size', [(1, 256, 7, 7), (4, 128, 7, 9), (1, 512, -1, 14)]
)
@pytest.mark.filterwarnings('error')
def test_a_module_with_one_token(heads, d, window_size, size, strength, series, monkeypatch):
    used = []
    for name in ('one_token_attention', 'one_token_backward'):
        function = getattr(small, name)
        monkeypatch.setattr(small, name, lambda *args, f=function: used.append(f) or f(*args))
    torch.manual_seed(0)
    module = SCSA(d * heads, head_num=heads, window_size=window_size, qkv_bias=True).double()
    module.q.weight.data *= strength
    x = torch.randn(8, d * heads, size, size, dtype=torch.float64)
    found = output_and_gradients(module, module, x)
    assert len(used) == 2 * series
    for a, b in zip(found, output_and_gradients(reference(module), module, x)):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11)


def test_few_values_and_several_tokens_take_the_matrix(monkeypatch):
    monkeypatch.setattr(small, 'one_token_attention', None)
    SCSA(128)(torch.randn(31, 128, 7, 7))
    SCSA(256)(torch.randn(7, 256, 7, 7))
    SCSA(256)(torch.randn(8, 256, 7, 14))


def test_where_numbers_are_not_known():
    """Fake tensors have none to ask for the largest product."""
    with FakeTensorMode(), torch.no_grad():
        assert SCSA(256)(torch.randn(2, 256, 7, 7)).shape == (2, 256, 7, 7)

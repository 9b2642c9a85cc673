"""The sums over rows and columns of a map, by whatever operation they are computed."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from scsa.attention import SCSA
from scsa.ops.passes import torch as torch_passes
from scsa.ops.passes.torch import bags, gated_sum, sum_columns, sum_last, sum_rows, sums_bags

KINDS = {
    'float32': lambda x: x.float(),
    'float64': lambda x: x,
    'bfloat16': lambda x: x.bfloat16(),
    'channels_last': lambda x: x.float().contiguous(memory_format=torch.channels_last),
    'sliced': lambda x: torch.cat([x, x], 3).float()[..., : x.size(3)],
}


@pytest.fixture(params=KINDS)
def x(request):
    torch.manual_seed(0)
    return KINDS[request.param](torch.randn(2, 3, 14, 40, dtype=torch.float64))


def close(found, expected, x):
    assert found.dtype == torch.promote_types(x.dtype, torch.float32)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_only_float32_without_gaps_is_summed_as_bags(x):
    expected = x.dtype == torch.float32 and x.is_contiguous()
    assert sums_bags(x) == expected
    assert not sums_bags(x[:0])


@pytest.mark.parametrize('height', [1, 4, 7, 14])
@pytest.mark.parametrize('as_bags', [True, False])
def test_sum_rows(x, height, as_bags, monkeypatch):
    if not as_bags:
        monkeypatch.setattr(torch_passes, 'sums_bags', lambda x: False)
    close(sum_rows(x, height), x.double().unfold(2, height, height).sum(4), x)


@pytest.mark.parametrize('height', [1, 4, 7, 14])
@pytest.mark.parametrize('bags', [True, False])
def test_sum_of_gated_rows(height, bags, monkeypatch):
    if not bags:
        monkeypatch.setattr(torch_passes, 'sums_bags', lambda x: False)
    x, gate = torch.randn(2, 3, 14, 40), torch.rand(2, 6, 14).chunk(2, 1)[1]
    expected = (x * gate.unsqueeze(3)).double().unfold(2, height, height).sum(4)
    close(sum_rows(x, height, gate), expected, x)


@pytest.mark.parametrize('width', [1, 7, 9, 33, 40])
def test_sum_columns(x, width):
    close(sum_columns(x, width, 0.5), x.double().unfold(3, width, width).sum(4) / 2, x)


@pytest.mark.parametrize('width', [1, 32, 33])
def test_sum_last(x, width):
    x = x[..., :width].contiguous()
    close(sum_last(x, 3.0), x.double().sum(3) * 3, x)


def test_gated_sum(x):
    gate = torch.rand(2, 3, 14).to(torch.promote_types(x.dtype, torch.float32))
    expected = (x * gate.to(x.dtype).unsqueeze(3)).double().sum(2)
    close(gated_sum(x, gate), expected, x)


def test_what_is_kept_of_bags_serves_every_mode():
    """Made in inference mode or under fake tensors it could not be used in training."""
    bags.cache_clear()
    module, x = SCSA(8), torch.randn(2, 8, 15, 14)
    expected = module(x).sum()
    bags.cache_clear()
    with torch.inference_mode():
        module(x)
    assert bags.cache_info().currsize == 2  # all rows, and those of a window
    assert not any(kept.is_inference() for kept in bags(16, 15, 7, x.device))
    training = x.clone().requires_grad_()
    result = module(training).sum()
    result.backward()
    assert torch.equal(result, expected) and training.grad.isfinite().all()
    assert bags.cache_info().currsize == 2

    bags.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        sum_rows(x, 7)
    assert bags.cache_info().currsize == 0


def test_few_bags_are_kept():
    bags.cache_clear()
    for rows in range(7, 107):
        sum_rows(torch.ones(1, 1, rows, 1), 7)
    assert bags.cache_info().currsize == 32

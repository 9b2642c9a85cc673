"""The sums over rows and columns of a map, by whatever operation they are computed."""

import pytest
import torch

from scsa.ops.passes import torch as torch_passes
from scsa.ops.passes.torch import gated_sum, sum_columns, sum_last, sum_rows, sums_bags

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
    bags = x.dtype == torch.float32 and x.is_contiguous()
    assert sums_bags(x) == bags
    assert not sums_bags(x[:0])


@pytest.mark.parametrize('height', [1, 4, 7, 14])
@pytest.mark.parametrize('bags', [True, False])
def test_sum_rows(x, height, bags, monkeypatch):
    if not bags:
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

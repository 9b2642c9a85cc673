"""The sums over rows and columns of a map, and the strips, by whatever operation computes them."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from scsa.attention import SCSA
from scsa.ops import backend
from scsa.ops.passes import torch as torch_passes
from scsa.ops.passes.torch import (
    bags,
    parts,
    sum_columns,
    sum_columns_gated,
    sum_last,
    sum_over,
    sum_rows,
    sum_rows_gated,
    sums_bags,
)
from scsa.ops.small import convolve_strip

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
    last = x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    x = x[..., :width].contiguous(memory_format=layout)
    close(sum_last(x, 3.0), x.double().sum(3) * 3, x)


@pytest.mark.parametrize('dim', [2, 3, 4])
def test_sum_over(x, dim):
    """Whatever it sums, the sums lie without gaps, as what follows takes them."""
    windows = x.unflatten(2, [2, 7])
    found = sum_over(windows, dim)
    close(found, windows.double().sum(dim), x)
    assert found.is_contiguous()


def test_sum_rows_gated(x):
    gate = torch.rand(2, 3, 14).to(torch.promote_types(x.dtype, torch.float32))
    expected = (x * gate.to(x.dtype).unsqueeze(3)).double().sum(2)
    close(sum_rows_gated(x, gate), expected, x)


@pytest.mark.parametrize('width', [1, 15, 16, 40])
def test_sum_columns_gated(x, width):
    x = x[..., :width]
    gate = torch.rand(2, 6, width).to(torch.promote_types(x.dtype, torch.float32)).chunk(2, 1)[1]
    expected = (x * gate.to(x.dtype).unsqueeze(2)).double().sum(3)
    close(sum_columns_gated(x.clone(), gate), expected, x)


def test_parts_of_a_map(monkeypatch):
    """All channels of all images, some at a time, with what belongs to each."""
    monkeypatch.setattr(torch_passes, 'PART', 60)
    x, strip = torch.randn(2, 5, 4, 7), torch.randn(2, 10, 4).chunk(2, 1)[1]
    found = list(parts(x, strip, strip[:, :, 0]))
    assert [part.shape[1] for part, *_ in found] == [2] * 5
    assert torch.equal(torch.cat([part for part, *_ in found], 1).view_as(x), x)
    assert all(
        part.data_ptr() == x[0, 2 * i :].data_ptr() for i, (part, *_) in enumerate(found[:2])
    )
    for i, other in ((1, strip), (2, strip[:, :, 0])):
        assert torch.equal(torch.cat([part[i] for part in found], 1).view_as(other), other)


@pytest.mark.parametrize(
    'change',
    [
        lambda x: x[:, :, :1],  # small
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3),
    ],
)
def test_other_maps_come_at_once(change, monkeypatch):
    monkeypatch.setattr(torch_passes, 'PART', 60)
    x = change(torch.randn(2, 5, 4, 7))
    assert list(parts(x, x)) == [(x, x)]


@pytest.mark.parametrize('options', [{}, dict(down_sample_mode='max_pool'), dict(window_size=-1)])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_a_map_in_parts_gives_what_it_gives_at_once(options, layout, monkeypatch):
    torch.manual_seed(0)
    module, x = SCSA(12, **options), torch.randn(2, 12, 15, 16, requires_grad=True)
    grad = torch.randn(2, 12, 15, 16).contiguous(memory_format=layout)

    def results():
        with backend('eager'):
            out = module(x)
        return [out, *torch.autograd.grad(out, [x, *module.parameters()], grad)]

    expected, split = results(), []
    monkeypatch.setattr(torch_passes, 'PART', 1000)
    kept = torch_passes.parts
    monkeypatch.setattr(
        torch_passes, 'parts', lambda *t: split.append(len(list(kept(*t)))) or kept(*t)
    )
    for found, value in zip(results(), expected):
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-5)
    assert max(split) == 6 and (layout != torch.contiguous_format or min(split) == 6)


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


@pytest.mark.parametrize('size', [3, 9, 11])
@pytest.mark.parametrize('length', [1, 2, 3, 4, 14])
def test_a_strip_is_convolved_in_the_layout_that_is_fast(size, length):
    """Channels last where PyTorch's CPU library has no fast code for contiguous rows."""
    torch.manual_seed(0)
    strip, kernel, bias = torch.randn(2, 8, length), torch.randn(8, 1, size), torch.randn(8)
    found = convolve_strip(strip, kernel, bias)
    expected = torch.nn.functional.conv1d(strip, kernel, bias, padding=size // 2, groups=8)
    torch.testing.assert_close(found, expected)
    fast = size < 11 and length >= size // 2
    assert fast == found.is_contiguous() or length == 1

"""Norm and convolution of what is small, against PyTorch's own gradients."""

import pytest
import torch

from scsa.ops.small import StripConvolution, convolve_strip, group_norm


def draw(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def check(found, expected, inputs):
    weights = torch.randn_like(expected)
    torch.testing.assert_close(found, expected)
    pair = (torch.autograd.grad((y * weights).sum(), inputs) for y in (found, expected))
    for a, b in zip(*pair):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('length', [1, 2, 7, 8, 9])
@pytest.mark.parametrize('groups', [1, 4])
def test_group_norm(length, groups):
    torch.manual_seed(0)
    u, weight, bias = inputs = draw(3, 16, length), draw(16), draw(16)
    expected = torch.group_norm(u, groups, weight, bias)
    check(group_norm(u, groups, weight, bias), expected, inputs)


@pytest.mark.parametrize('length', [1, 3, 4, 20, 100])
def test_strip_convolution(length):
    torch.manual_seed(0)
    inputs = draw(3, 16, length), draw(16, 1, 9), draw(16)
    check(StripConvolution.apply(*inputs), convolve_strip(*inputs), inputs)

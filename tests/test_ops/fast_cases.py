"""Shared by the tests of the fast paths: random modules and maps, and their gradients."""

import random

import torch

from scsa.attention import SCSA, scsa_reference

# The four stages of a ResNet-50 at 224 x 224, where the figures of the benchmarks are taken.
STAGES = ((64, 56), (128, 28), (256, 14), (512, 7))


def random_module(draw: random.Random, **fixed) -> SCSA:
    """A module with any options; weights such that the gates are far from constant."""
    heads = draw.choice((1, 1, 2, 4))
    options = dict(
        dim=4 * heads * draw.randint(1, 6),
        head_num=heads,
        window_size=draw.choice((-1, 1, 2, 3, 7)),
        group_kernel_sizes=tuple(draw.choice((1, 3, 5, 7, 9, 11)) for _ in range(4)),
        qkv_bias=draw.random() < 0.5,
        down_sample_mode=draw.choice(('avg_pool', 'max_pool', 'recombination')),
        gate_layer=draw.choice(('sigmoid', 'softmax')),
    )
    module = SCSA(**{**options, **fixed})
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    for parameter in module.parameters():
        parameter.data.normal_(0.5, 1.0, generator=generator)
    return module


def random_map(draw: random.Random, module: SCSA, dtype=torch.float64) -> torch.Tensor:
    """A map that the published module takes too, of any size and layout."""
    least = max(1, module.window_size)
    shape = (draw.randint(1, 3), module.dim, draw.randint(least, 20), draw.randint(least, 20))
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    x = torch.randn(shape, generator=generator, dtype=dtype)
    layout = draw.choice(('contiguous', 'channels_last', 'transposed', 'sliced'))
    if layout == 'channels_last':
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == 'transposed':
        x = x.transpose(2, 3).contiguous().transpose(2, 3)
    elif layout == 'sliced':
        x = torch.cat([x, x], 3)[..., ::2][..., : x.size(3)]
    return x


def output_and_gradients(function, module, x):
    """Returns the output and the gradients of the map and of all parameters, for random cotangents.

    The cotangent depends on the shape alone, so that two paths get the same.
    """
    x = x.detach().requires_grad_()
    module.zero_grad(set_to_none=True)
    out = function(x)
    generator = torch.Generator().manual_seed(out.numel())
    grad_out = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    out.backward(grad_out.to(out))
    return [out.detach(), x.grad, *(p.grad for p in module.parameters())]


def reference(module):
    return lambda x: scsa_reference(module, x)


def distance(found, expected) -> float:
    """Largest difference over the largest value."""
    return ((found.double() - expected.double()).abs().max() / expected.double().abs().max()).item()

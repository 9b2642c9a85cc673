"""Weights and images that are a function of their names, the same with every version of PyTorch.

The golden numbers of the tests were computed with them.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor, nn


def draw(name: str, shape: tuple[int, ...], scale: float, offset: float = 0.0) -> Tensor:
    """Normal random numbers that depend on the name alone."""
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    return torch.from_numpy(offset + scale * rng.standard_normal(shape)).float()


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """The weight of that name in a state dict, of a size that keeps maps neither tiny nor huge."""
    if name.endswith('num_batches_tracked'):
        return torch.tensor(0)
    if name.endswith('running_mean'):
        return draw(name, shape, 0.05)
    if name.endswith('running_var'):
        return draw(name, shape, 0.1).abs() + 0.9
    if len(shape) == 1:
        return draw(name, shape, 0.1, 1.0) if name.endswith('weight') else draw(name, shape, 0.05)
    if len(shape) == 2:  # a linear layer
        return draw(name, shape, shape[1] ** -0.5)
    if len(shape) == 4 and shape[1] == shape[2] == 1:  # q, k, v
        return draw(name, shape, 0.5)
    if len(shape) == 3:  # along a strip
        return draw(name, shape, 0.4)
    if shape[1] == 1:  # depthwise
        return draw(name, shape, 0.3)
    return draw(name, shape, (2.0 / (shape[0] * shape[2] * shape[3])) ** 0.5)


def fill(model: nn.Module) -> nn.Module:
    """Gives every floating-point entry of the state dict its weight; indices stay."""
    state = model.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            state[name] = weight(name, tuple(value.shape))
    model.load_state_dict(state)
    return model

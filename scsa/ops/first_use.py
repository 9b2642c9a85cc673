"""Compares the Triton kernels with PyTorch's own operations before a process relies on them.

A Triton that compiles a kernel may still compile it wrongly (some builds add up wrong sums), so
that numbers are compared, of the output and of all gradients, for 16 tokens and for one.
"""

from types import ModuleType
from typing import List

import torch
from torch import Tensor

from ..attention.steps import Options, Parameters
from .passes import torch as torch_passes

DIM = 16
SIZES = ((28, 28), (7, 7))
TOLERANCE = 1e-4  # over the largest value


def check(passes: ModuleType, device: torch.device) -> None:
    """Computes two small maps both ways.

    Raises:
        ArithmeticError: The kernels gave other numbers.
    """
    for size in SIZES:
        # The first call may come from a training step under autocast, or from inference mode.
        with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
            both = [results(each, device, *size) for each in (passes, torch_passes)]
        for found, value in zip(*both):
            error = (found - value).abs().max() / value.abs().max()
            if not error <= TOLERANCE:  # nor a nan
                raise ArithmeticError(f'wrong numbers at {size}: off by {error:.1e} of the largest')


def results(passes: ModuleType, device: torch.device, height: int, width: int) -> List[Tensor]:
    """The output, the gradient of the map and those of the parameters."""
    from .function import backward, forward

    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    of_channels = [draw(DIM) for _ in range(7)]
    params = Parameters(draw(DIM, 1, 9), *of_channels, draw(3, DIM, 1), None, None)
    options = Options(DIM, 7, 'avg_pool', 0.0, False)
    x, grad = draw(2, DIM, height, width), draw(2, DIM, height, width)
    with torch.no_grad():
        out, *kept, _ = forward(passes, options, x, params)
        return [out, *backward(passes, options, grad, x, kept, params)[:-2]]

"""Compares the Triton kernels with PyTorch's own operations before a process relies on them.

A Triton that compiles a kernel may still compile it wrongly (some builds add up wrong sums), so
that numbers are compared, of the output and of all gradients, for 16 tokens and for one.
"""

from types import ModuleType
from typing import List

import torch
from torch import Tensor

from .dispatch import no_autocast
from .parameters import Options, join
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
        expected = results(torch_passes, device, *size)
        for found, value in zip(results(passes, device, *size), expected):
            error = (found - value).abs().max() / value.abs().max()
            if not error <= TOLERANCE:  # nor a nan
                raise ArithmeticError(
                    f'wrong numbers at {size} pixels: off by {error:.1e} of the largest'
                )


def results(passes: ModuleType, device: torch.device, height: int, width: int) -> List[Tensor]:
    """The output, the gradient of the map and those of the parameters."""
    from .function import backward, forward

    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    kernels = [draw(DIM // 4, 1, size) for size in (3, 5, 7, 9)]
    biases = [draw(DIM // 4) for _ in range(4)]
    norms = [draw(DIM) for _ in range(6)]
    scales = [draw(DIM, 1, 1, 1) for _ in range(3)]
    options = Options(DIM, 7, 'avg_pool', 0.0, False)
    x, grad = draw(2, DIM, height, width), draw(2, DIM, height, width)
    with torch.no_grad(), no_autocast(x):  # the first call may come from a training step
        params = join([*kernels, *biases, *norms, *scales, None, None, None, None], x.dtype)
        out = torch.empty_like(x)
        kept = forward(passes, options, x, params, out)
        grad_x, grad_params = backward(passes, options, grad, x, *kept, params)
    return [out, grad_x, *(p for p in grad_params if p is not None)]

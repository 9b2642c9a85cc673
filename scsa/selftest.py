"""Computes a small map by every path that can run here and compares with numbers kept here.

The numbers are those of the published formulation, :func:`scsa.attention.reference.scsa_reference`,
in float64. They need no package but torch, and milliseconds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import SCSA, backend
from .ops import dispatch

DIM = 8
SIZE = (2, DIM, 15, 22)
TOLERANCE = 1e-4  # relative; in float32 the means cancel to 2e-5
# The mean of each channel of each image: of the output, and of the input's gradient.
OUTPUT = [
    0.0025106729,
    0.0160901794,
    0.0039378177,
    -0.016658598,
    0.0127459309,
    0.0032009886,
    0.0048726756,
    -0.0144207024,
    0.0006707765,
    0.0058454315,
    0.0045439094,
    -0.0160624376,
    0.0124088941,
    0.0031658553,
    0.005417833,
    -0.0145507562,
]
GRADIENT = [
    -0.0083695197,
    0.0283564654,
    0.001507193,
    -0.0011186683,
    -0.0081887597,
    0.0002437237,
    0.0042761658,
    -0.0084707787,
    0.0036721593,
    0.0288302875,
    0.0016472203,
    -0.0011569611,
    -0.0101062979,
    0.0007489771,
    0.0036383608,
    -0.0088317896,
]


def wave(shape: tuple[int, ...], phase: float) -> Tensor:
    """Numbers in [-1, 1] that need no random generator."""
    count = torch.Size(shape).numel()
    return torch.sin(phase + 1.7 * torch.arange(count, dtype=torch.float64)).view(shape)


def build() -> nn.Module:
    """An SCSA whose parameters differ from each other and from their defaults."""
    module = SCSA(DIM).double().eval()
    with torch.no_grad():
        for phase, (name, parameter) in enumerate(sorted(module.named_parameters())):
            center = 1.0 if name.startswith('norm') and name.endswith('weight') else 0.0
            parameter.copy_(center + 0.5 * wave(tuple(parameter.shape), phase))
    return module


def profiles(module: nn.Module, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The means of the output's channels and of the gradient's, (2 * DIM) each."""
    module = module.to(device, dtype)
    x = wave(SIZE, 0.5).to(device, dtype).requires_grad_()
    y = module(x)
    (gradient,) = torch.autograd.grad((y * wave(SIZE, 2.0).to(y)).sum(), x)
    return tuple(t.detach().double().mean((2, 3)).flatten().cpu() for t in (y, gradient))


def paths(device: str) -> list[str]:
    """What can compute on a device."""
    x = torch.zeros(1, DIM, 8, 8, device=device)
    return ['eager', 'reference', *([] if dispatch.why_not_triton(x) else ['triton'])]


def compare(path: str, device: str) -> float:
    """The larger relative distance of output and gradient from the numbers kept."""
    with backend(path):
        found = profiles(build(), device, torch.float32)
    return max(
        ((f - torch.tensor(kept).double()).norm() / torch.tensor(kept).double().norm()).item()
        for f, kept in zip(found, (OUTPUT, GRADIENT))
    )

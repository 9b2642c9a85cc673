"""What the modules of this package take."""

import torch
from torch import Tensor


def check_input(x: Tensor, dim: int) -> None:
    """Refuse what is not a (B, dim, H, W) map of real numbers with at least one pixel.

    Raises:
        ValueError: on another rank, type or number of channels, or an empty map.
    """
    if torch.jit.is_tracing():  # the sizes are recorded tensors here: a branch would be frozen
        return
    if x.dim() != 4:
        raise ValueError(
            f'SCSA takes a feature map (B, C, H, W), got a tensor of {x.dim()} dimensions; '
            'lay tokens out as a map first'
        )
    if x.size(1) != dim:
        raise ValueError(
            f'SCSA was built for dim={dim} channels, got a map of {x.size(1)} channels; '
            'pass the channels of the map as dim'
        )
    if not x.is_floating_point():
        raise ValueError(f'SCSA takes a map of floating-point numbers, got {x.dtype}')
    if x.size(2) == 0 or x.size(3) == 0:
        raise ValueError(f'SCSA needs at least one pixel, got a map of {x.size(2)}x{x.size(3)}')

"""The steps of the attention whose control flow depends on the shape of the input.

``torch.fx`` cannot follow a branch on a shape and ``torch.jit.trace`` freezes it. So these are
functions that fx keeps as one node (``torch.fx.wrap`` in the files that call them) and that
tracing compiles (``script_if_tracing``): a traced module then runs at any other size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def check_input(x: Tensor, dim: int) -> None:
    """Refuse what is not a (B, dim, H, W) map with at least one pixel.

    Raises:
        ValueError: on another rank, another number of channels, or an empty map.
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
    if x.size(2) == 0 or x.size(3) == 0:
        raise ValueError(f'SCSA needs at least one pixel, got a map of {x.size(2)}x{x.size(3)}')


@torch.jit.script_if_tracing
def pool_windows(x: Tensor, mode: str, window_size: int) -> Tensor:
    """Reduce each window of a map to its average or maximum (section 3.3 of the paper).

    Rows and columns that do not fill a window are left out. A map smaller than the window counts
    as one window of its own size, where the published module fails.

    Args:
        x: (B, C, H, W).
        mode: ``'avg_pool'`` or ``'max_pool'``.
        window_size: Side of a window in pixels; -1 averages the whole map in every mode.

    Returns:
        (B, C, H // window_size, W // window_size).
    """
    if window_size == -1:
        return x.mean((2, 3), keepdim=True)
    window = [min(window_size, x.size(2)), min(window_size, x.size(3))]
    if mode == 'max_pool':
        return F.max_pool2d(x, window, window)
    return F.avg_pool2d(x, window, window)


@torch.jit.script_if_tracing
def recombine_windows(x: Tensor, weight: Tensor, window_size: int) -> Tensor:
    """Take all pixels of a window to the channels and mix them by a 1x1 convolution.

    That is a convolution with the window as its kernel and stride, so it is computed as one.
    A map smaller than the window is filled up with zeros, that is, it meets the part of the kernel
    that it covers.

    Args:
        x: (B, C, H, W).
        weight: (C', C * window_size ** 2, 1, 1), its inputs ordered channel, row, column.
        window_size: Side of a window in pixels.

    Returns:
        (B, C', H // window_size, W // window_size).
    """
    kernel = weight.view(weight.size(0), x.size(1), window_size, window_size)
    kernel = kernel[:, :, : x.size(2), : x.size(3)]
    return F.conv2d(x, kernel, stride=window_size)

"""Effective receptive fields: on which pixels the centre of a feature map depends, and how much.

After Luo et al., Understanding the effective receptive field in deep convolutional neural
networks (arXiv 1701.04128).
"""

from __future__ import annotations

from typing import Callable, Iterable, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import MapRecorder


class Field(NamedTuple):
    """The effective receptive field of a layer.

    Attributes:
        field: (H, W) of the input, float64: the gradient's absolute value, summed over the
            colours, mean of the images.
        map_size: Height and width of the layer's map.
        share: ``share[s]`` is the share of the field inside the centred square of ``s`` pixels a
            side, for s = 0 … max(H, W).
        offset: How far the field's centre of mass is below and to the right of the input's centre,
            in pixels.
    """

    field: np.ndarray
    map_size: tuple[int, int]
    share: np.ndarray
    offset: tuple[float, float]

    def side(self, share: float) -> int:
        """The side in pixels of the smallest centred square that holds a share of the field."""
        return int(np.argmax(self.share >= share * (1 - 1e-12)))


def effective_fields(
    model: nn.Module,
    inputs: Iterable[Tensor],
    layers: list[str],
    forward: Callable[[Tensor], object] | None = None,
) -> dict[str, Field]:
    """The effective receptive field of layers, mean over inputs.

    What is differentiated is the sum over the channels at the centre of the map: at the one cell
    there if the sides are odd, at the mean of the two or four around the centre if they are even.

    Args:
        model: The network, in eval mode.
        inputs: (1, 3, H, W) each; those of another size than the first are resized to it.
        layers: Names of layers that give maps or tokens; see :class:`MapRecorder`.
        forward: What runs the layers; the model's ``extract_feat`` where it has one, else itself.

    Returns:
        The field of each layer.

    Raises:
        UserError: There is no such layer, or it gives no map.
    """
    forward = forward or getattr(model, 'extract_feat', model)
    sums, sizes, count, first = dict.fromkeys(layers, 0.0), {}, 0, None
    for x in inputs:
        first = first or x.shape[2:]
        if x.shape[2:] != first:
            x = F.interpolate(x, size=first, mode='bilinear', align_corners=False)
        x = x.detach().requires_grad_()
        with MapRecorder(model, layers) as maps, torch.enable_grad():
            forward(x)
        for layer in layers:
            sizes[layer] = tuple(maps[layer].shape[2:])
            (gradient,) = torch.autograd.grad(centre(maps[layer]).sum(), x, retain_graph=True)
            sums[layer] = sums[layer] + gradient[0].abs().sum(0).double().cpu().numpy()
        count += 1
    return {layer: describe(sums[layer] / count, sizes[layer]) for layer in layers}


def centre(x: Tensor) -> Tensor:
    """The middle of a map (B, C, H, W) as (B, C): of an even side the mean of its two middles."""
    height, width = x.shape[2:]
    rows = slice((height - 1) // 2, height // 2 + 1)
    columns = slice((width - 1) // 2, width // 2 + 1)
    return x[:, :, rows, columns].mean((2, 3))


def describe(field: np.ndarray, map_size: tuple[int, int]) -> Field:
    """A field (H, W) with its shares and its centre of mass."""
    height, width = field.shape
    y, x = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    # The smallest centred square that holds a pixel has a side of 2 |distance| + 1.
    sides = np.maximum(2 * np.abs(y)[:, None] + 1, 2 * np.abs(x)[None] + 1).astype(int)
    total = field.sum() or 1.0
    share = np.cumsum(np.bincount(sides.ravel(), field.ravel() / total))
    offset = float((field.sum(1) * y).sum() / total), float((field.sum(0) * x).sum() / total)
    return Field(field, map_size, share, offset)

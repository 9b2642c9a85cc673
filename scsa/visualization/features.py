"""The feature maps of layers, models side by side."""

from __future__ import annotations

from typing import Mapping, Sequence

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from ..cli import UserError
from .layers import MapRecorder, stage_ends
from .models import LoadedModel

ROBUST = 99.5  # percentile at which a colour scale ends: single peaks would darken the rest


def choose_layers(
    models: Sequence[LoadedModel], names: Sequence[str] | None = None
) -> dict[str, list[str]]:
    """The layers to look at, by model: those named, else the end of each stage of the backbone.

    Raises:
        UserError: if the backbones have different numbers of stages, or no known ones.
    """
    chosen = {model.name: list(names or stage_ends(model.model)) for model in models}
    counts = {len(layers) for layers in chosen.values()}
    if len(counts) > 1:
        raise UserError('the models have different numbers of stages; give --layer')
    return chosen


@torch.no_grad()
def feature_maps(
    model: LoadedModel, image: np.ndarray, layers: Sequence[str]
) -> dict[str, np.ndarray]:
    """What layers give for an image.

    Args:
        model: The model; the whole of it runs, heads too.
        image: (height, width, 3) uint8, RGB.
        layers: Names of layers, as ``named_modules`` calls them.

    Returns:
        By layer (C, H, W), float32.

    Raises:
        UserError: if a layer is unknown, gives no map, or does not run in prediction.
    """
    inputs, samples = model.prepare(image)
    with MapRecorder(model.model, list(layers)) as maps:
        model.model(inputs, samples, mode='predict')
    for layer in layers:
        if layer not in maps:
            raise UserError(f'layer {layer!r} does not run in prediction; give another --layer')
    return {layer: maps[layer][0].float().cpu().numpy() for layer in layers}


def most_varied(maps: np.ndarray, count: int) -> np.ndarray:
    """The indices of the channels whose values vary most over the pixels, in the order of the map.

    Args:
        maps: (C, H, W).
        count: How many, or all if there are fewer.
    """
    order = np.argsort(-maps.std(axis=(1, 2)), kind='stable')
    return np.sort(order[:count])


def montage(maps: np.ndarray) -> np.ndarray:
    """Lays (N, H, W) out as a square of squares with gaps of NaN."""
    count, height, width = maps.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    gap = max(1, height // 16)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), np.nan)
    for i, one in enumerate(maps):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = one
    return sheet


def draw(
    picture: np.ndarray, maps: Mapping[str, Mapping[str, np.ndarray]], channels: int = 9
) -> Figure:
    """Draws a row for each layer: the mean over its channels and single channels, model by model.

    The models of a row share its colour scales, one of the means and one of the channels.

    Args:
        picture: The image as the network sees it, (H, W, 3) uint8, RGB.
        maps: By model and layer (C, H, W); all models with as many layers.
        channels: How many channels to draw, those that vary most; see :func:`most_varied`.
    """
    names = list(maps)
    rows = list(zip(*(maps[name].items() for name in names)))  # of (layer, map) by model
    kinds = ('mean', 'channels') if channels else ('mean',)
    columns = len(names) * len(kinds)
    height, width = picture.shape[:2]
    tall = 1.75 * min(max(height / width, 0.5), 2) + 0.05  # inches a row
    figure, axes = plt.subplots(
        *(len(rows), columns + 1),
        figsize=(1.75 * (columns + 1) + 1.2 * len(kinds), tall * len(rows) + 0.6),
        squeeze=False,
        layout='constrained',
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    axes[0, 0].imshow(picture)
    axes[0, 0].set_title('input', fontsize=10)
    for row, cells in enumerate(rows):
        layers = dict.fromkeys(layer for layer, _ in cells)
        label = '\n'.join(layer.replace('backbone.', '') for layer in layers)
        axes[row, 1].set_ylabel(label, fontsize=10)
        for k, kind in enumerate(kinds):
            sheets = [_sheet(values, kind, channels) for _, values in cells]
            seen = np.concatenate([sheet[np.isfinite(sheet)] for sheet in sheets])
            low, high = np.percentile(seen, [100 - ROBUST, ROBUST])
            mine = axes[row, 1 + k * len(names) : 1 + (k + 1) * len(names)]
            for axis, name, sheet in zip(mine, names, sheets):
                shown = axis.imshow(sheet, cmap='viridis', vmin=min(low, 0), vmax=high)
                if row == 0:
                    what = 'mean' if kind == 'mean' else f'{channels} channels'
                    axis.set_title(f'{name}: {what}', fontsize=10)
            bar = figure.colorbar(shown, ax=list(mine), fraction=0.05, pad=0.02, aspect=15)
            bar.ax.tick_params(labelsize=8)
    plt.close(figure)
    return figure


def _sheet(values: np.ndarray, kind: str, channels: int) -> np.ndarray:
    return values.mean(0) if kind == 'mean' else montage(values[most_varied(values, channels)])

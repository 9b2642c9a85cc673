"""The sheet of tools/visualization/cam.py."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Optional, Sequence, Tuple

import numpy as np
from matplotlib.figure import Figure

from .cam import ActivationMap
from .output import plt, save_arrays, save_figure

ROWS = 6  # images on a sheet
CMAP = 'viridis'
# An image's path, its pixels (H, W, 3), and the map of each model by name; None: nothing found.
Row = Tuple[Path, np.ndarray, Dict[str, Optional[ActivationMap]]]


def write_sheet(rows: Sequence[Row], stem: Path, formats: list[str]) -> list[Path]:
    """Draw rows and write their heat maps beside the picture, as ``IMAGE/MODEL`` in an ``.npz``."""
    heats = {
        f'{path}/{model}': one.heat for path, _, maps in rows for model, one in maps.items() if one
    }
    save_arrays(stem.with_suffix('.npz'), **heats)
    return save_figure(draw(rows), stem, formats)


def numbers(row: Row) -> list[dict]:
    """What the maps of an image say, for JSON; ``nothing`` speaks for a class where all is 0."""
    found = []
    for model, one in row[2].items():
        if one is None:
            found.append({'image': row[0], 'model': model, 'found': False})
            continue
        peak = np.unravel_index(one.heat.argmax(), one.heat.shape)
        found.append(
            {'image': row[0], 'model': model, 'found': True, 'layer': one.layer,
             'label': one.label, 'class': one.name, 'score': one.score, 'peak': peak,
             'size': one.heat.shape, 'nothing': not one.heat.any()}
        )  # fmt: skip
    return found


def draw(rows: Sequence[Row]) -> Figure:
    """Images below one another, the maps of the models beside each."""
    models = list(rows[0][2])
    columns = 1 + len(models)
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(2.3 * columns + 0.8, 2.6 * len(rows)), squeeze=False,
        layout='constrained',
    )  # fmt: skip
    for (path, image, maps), line in zip(rows, axes):
        line[0].imshow(image)
        line[0].set_title(path.name, fontsize=8)
        for axis, (model, one) in zip(line[1:], maps.items()):
            if one is None:
                axis.set_title(f'{model}: nothing found', fontsize=8)
                axis.imshow(image)
                continue
            axis.set_title(f'{model}: {one.name}, {one.score:.2f}', fontsize=8)
            overlay(axis, one)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    colours = plt.cm.ScalarMappable(plt.Normalize(0, 1), CMAP)
    bar = figure.colorbar(colours, ax=axes, shrink=min(1, 2 / len(rows)), aspect=30)
    bar.set_label('heat, each map from 0 to 1', fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def overlay(axis: plt.Axes, one: ActivationMap) -> None:
    """A heat map over the network's input, with the outline of what was asked about."""
    grey = one.picture.mean(2)
    axis.imshow(grey, cmap='gray', vmin=0, vmax=255)
    axis.imshow(one.heat, cmap=CMAP, vmin=0, vmax=1, alpha=0.6)
    if one.region is None:
        return
    if one.region.ndim == 1:
        x1, y1, x2, y2 = one.region
        axis.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor='white'))
    elif not one.region.all():
        axis.contour(one.region, levels=[0.5], colors='white', linewidths=1)

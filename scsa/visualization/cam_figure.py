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
FONT = 11  # points: read at half width too
WIDTH, TITLE, LEAST_HEIGHT = 2.3, 0.35, 3.5  # inches: of a column, above an image, of a sheet
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
    # As high as the images are: a row for squares would leave gaps round wide ones.
    heights = [WIDTH * min(image.shape[0] / image.shape[1], 2) + TITLE for _, image, _ in rows]
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(WIDTH * columns + 1, max(sum(heights), LEAST_HEIGHT)),
        squeeze=False, layout='constrained', height_ratios=heights,
    )  # fmt: skip
    for (path, image, maps), line in zip(rows, axes):
        line[0].imshow(image)
        line[0].set_title(path.name, fontsize=FONT)
        for axis, (model, one) in zip(line[1:], maps.items()):
            if one is None:
                axis.set_title(f'{model}: nothing found', fontsize=FONT)
                axis.imshow(image)
                continue
            axis.set_title(f'{model}: {one.name}, {one.score:.2f}', fontsize=FONT)
            overlay(axis, one)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    colours = plt.cm.ScalarMappable(plt.Normalize(0, 1), CMAP)
    bar = figure.colorbar(colours, ax=axes, shrink=min(1, LEAST_HEIGHT / sum(heights)), aspect=30)
    bar.set_label('heat, each map from 0 to 1', fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT - 1)
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

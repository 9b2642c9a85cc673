"""The sheet of tools/visualization/receptive_field.py."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from .output import plt
from .receptive_field import Field

DECADES = 4  # what is less than 10^-4 of the largest is drawn as that
SHARES = (0.5, 0.95)
FONT = 11  # points: read at half width too


def draw(fields: dict[str, dict[str, Field]]) -> Figure:
    """Log heat maps, a row for each model and a column for each stage; below, the shares.

    Args:
        fields: By model, then by layer; all models have as many layers.
    """
    models, columns = list(fields), len(next(iter(fields.values())))
    rows = len(models) + 1
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.5 * columns + 1.2, 2.6 * rows), squeeze=False,
        layout='constrained',
    )  # fmt: skip
    for row, model in enumerate(models):
        for column, (layer, one) in enumerate(fields[model].items()):
            axis = axes[row, column]
            image = draw_field(axis, one)
            height, width = one.map_size
            short = layer.replace('backbone.', '')
            axis.set_title(f'{model}: {short}\nmap of {height} × {width}', fontsize=FONT)
            curve = axes[-1, column]
            curve.plot(one.share * 100, label=model)
            curve.set_xlabel('side of square (pixels)', fontsize=FONT)
    for axis in axes[-1]:
        axis.tick_params(labelsize=FONT - 1)
        axis.grid(alpha=0.3)
        axis.set(ylim=(0, 101), xlim=(0, None))
        for share in SHARES:
            axis.axhline(share * 100, color='black', linewidth=0.8, linestyle=':')
    axes[-1, 0].set_ylabel('inside (%)', fontsize=FONT)
    axes[-1, 0].legend(fontsize=FONT)
    bar = figure.colorbar(image, ax=axes[:-1], shrink=0.8)
    bar.set_label('log₁₀ of gradient / largest', fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT - 1)
    return figure


def draw_field(axis: plt.Axes, one: Field):
    """A field as log heat map, with the squares that hold 50 % and 95 % of it."""
    relative = one.field / (one.field.max() or 1.0)
    logs = np.log10(np.maximum(relative, 10.0**-DECADES))
    image = axis.imshow(logs, cmap='viridis', vmin=-DECADES, vmax=0)
    height, width = one.field.shape
    for share in SHARES:
        side = one.side(share)
        corner = ((width - side) / 2 - 0.5, (height - side) / 2 - 0.5)
        axis.add_patch(plt.Rectangle(corner, side, side, fill=False, edgecolor='white'))
    axis.set(xticks=[], yticks=[])
    return image

"""The sheet of tools/visualization/attention_maps.py."""

from __future__ import annotations

from typing import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .attention_maps import pixel_gate
from .output import plt

COLUMNS = 5
FONT = 11  # points: read at half width too
LINES = {'height': '-', 'width': '--'}


def draw(
    arrays: dict[str, np.ndarray],
    picture: np.ndarray,
    title: str,
    kernels: Sequence[int] = (),
    head: int = 0,
) -> Figure:
    """What one module does to an image.

    The first row has the image, the map before and after (mean of the channels), the histogram of
    the channel gate, and the matrix of a head; the second A_h · A_w over the image, for each group
    and for all channels; the third the gates of the rows and of the columns.

    Args:
        arrays: Of one module, by :func:`attention_maps`.
        picture: (H, W, 3) uint8, RGB, the network's input.
        title: What stands above.
        kernels: The kernel sizes of the four groups.
        head: Which head's matrix.
    """
    figure, axes = plt.subplots(
        3, COLUMNS, figsize=(2.7 * COLUMNS, 7.5), squeeze=False, layout='constrained'
    )
    for axis in axes.flat:
        axis.set_visible(False)
    figure.suptitle(title, fontsize=FONT + 1)

    panel(axes[0, 0], 'image').imshow(picture)
    for axis, key in zip(axes[0, 1:], ('before', 'after')):
        image = panel(axis, f'map {key} (mean)')
        bar(figure, axis, image.imshow(arrays[key].mean(0), cmap='viridis'))
    if 'channel' in arrays:
        draw_channel_gate(figure, axes[0, 3], axes[0, 4], arrays, head)
    if 'height' in arrays:
        draw_pixel_gates(figure, axes[1], arrays, picture, kernels)
        draw_strips(axes[2], arrays, kernels)
    return figure


def panel(axis: plt.Axes, title: str, ticks: bool = False) -> plt.Axes:
    """Show an axis, with a title and, for curves, its ticks."""
    axis.set_visible(True)
    axis.set_title(title, fontsize=FONT)
    axis.tick_params(labelsize=FONT - 2)
    if not ticks:
        axis.set(xticks=[], yticks=[])
    return axis


def bar(figure: Figure, axis: plt.Axes, image) -> None:
    # Inset: as high as the image, whatever its shape.
    inset = axis.inset_axes([1.04, 0, 0.06, 1])
    figure.colorbar(image, cax=inset).ax.tick_params(labelsize=FONT - 2)


def draw_channel_gate(figure: Figure, histogram, matrix, arrays, head: int) -> None:
    """The histogram of the channel gate, and the channel × channel matrix of a head."""
    axis = panel(histogram, 'channel gate', ticks=True)
    axis.hist(arrays['channel'], bins=30)
    axis.set_ylabel('channels', fontsize=FONT)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axis.ticklabel_format(axis='x', useOffset=False)
    axis.locator_params(axis='x', nbins=4)
    axis.tick_params(axis='x', labelrotation=20)
    attention = arrays['attention'][head]
    of = f'matrix of head {head + 1} of {len(arrays["attention"])}'
    bar(figure, matrix, panel(matrix, of).imshow(attention, cmap='viridis'))
    matrix.set_xlabel(f'a row sums to 1; even: {1 / len(attention):.2g}', fontsize=FONT - 1)


def draw_pixel_gates(figure: Figure, axes, arrays, picture, kernels) -> None:
    """A_h · A_w over the image, all panels on one scale."""
    maps = [pixel_gate(arrays, group) for group in range(4)] + [pixel_gate(arrays)]
    low, high = min(map(np.min, maps)), max(map(np.max, maps))
    height, width = picture.shape[:2]
    for number, (axis, gate) in enumerate(zip(axes, maps)):
        title = f'$A_h A_w$, {group_name(number, kernels)}' if number < 4 else '$A_h A_w$, all'
        panel(axis, title).imshow(picture.mean(2), cmap='gray', vmin=0, vmax=255)
        image = axis.imshow(
            gate, cmap='viridis', vmin=low, vmax=high, alpha=0.65,
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        )  # fmt: skip
    bar(figure, axes[-1], image)


def draw_strips(axes, arrays, kernels) -> None:
    """The gates of rows and columns, by group: the mean of the channels and their range."""
    quarter = len(arrays['height']) // 4
    for group, axis in enumerate(axes[:4]):
        panel(axis, f'gates, {group_name(group, kernels)}', ticks=True)
        channels = slice(group * quarter, (group + 1) * quarter)
        for key, line in LINES.items():
            gate = arrays[key][channels]
            place = np.arange(gate.shape[1])
            axis.plot(place, gate.mean(0), line, label=key)
            axis.fill_between(place, gate.min(0), gate.max(0), alpha=0.2)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axis.set_xlabel('row or column', fontsize=FONT)
        axis.sharey(axes[0])
    handles, _ = axes[0].get_legend_handles_labels()
    axes[4].set_visible(True)
    axes[4].axis('off')
    labels = ['gates of the rows', 'gates of the columns']
    what = 'line: mean of the channels\nband: their range'
    place = dict(loc='upper left', frameon=False)
    axes[4].legend(handles, labels, title=what, fontsize=FONT, title_fontsize=FONT, **place)


def group_name(group: int, kernels: Sequence[int]) -> str:
    """What a group is called: by its kernel size where that is known."""
    return f'group {group + 1}' + (f', kernel {kernels[group]}' if kernels else '')

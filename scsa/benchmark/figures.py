"""The pictures of what tools/analysis/benchmark.py measured."""

from __future__ import annotations

import json
import math
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

from .models import pass_name


def draw(source: Path, out: Path) -> None:
    """Draw the rows of a JSON file: curves of a sweep, bars in multiples of a copy, or models."""
    content = json.loads(source.read_text('utf-8'))
    rows, facts = content['rows'], content['machine']
    if 'model' in rows[0]:
        figure, axis = plt.subplots(figsize=(8, 0.4 * len(rows) + 1.5))
        for place, row in enumerate(rows):
            axis.barh(place, row['images_per_second'])
        names = [f'{Path(r["model"]).stem}, {pass_name(r)}, batch {r["batch"]}' for r in rows]
        axis.set_yticks(range(len(rows)), names)
        axis.set(xlabel='images a second')
        axis.invert_yaxis()
    elif 'sweep' in rows[0]:
        figure = _draw_sweeps(rows)
    else:
        figure = _draw_bars(rows)
    where = f'{facts["processor"]}, {facts["threads"]} threads'
    where = facts['gpu'] if rows[0]['device'] == 'cuda' else where
    figure.suptitle(f'{where}, torch {facts["torch"]}, {facts["date"]}', fontsize=9)
    figure.tight_layout()
    figure.savefig(out, dpi=120)
    plt.close(figure)


def _draw_sweeps(rows: list[dict]):
    """Time against pixels and against channels, a panel for each and for each pass."""
    passes = list(dict.fromkeys(row['passes'] for row in rows))
    sweeps = list(dict.fromkeys(row['sweep'] for row in rows))
    figure, axes = plt.subplots(
        len(passes), len(sweeps), figsize=(5 * len(sweeps), 3.4 * len(passes)), squeeze=False
    )
    for i, name in enumerate(passes):
        for j, sweep in enumerate(sweeps):
            axis = axes[i][j]
            chosen = [r for r in rows if r['passes'] == name and r['sweep'] == sweep]
            for path in dict.fromkeys(r['path'] for r in chosen):
                mine = [r for r in chosen if r['path'] == path]
                sizes = [
                    math.prod(r['shape'][2:]) if sweep == 'pixels' else r['shape'][1] for r in mine
                ]
                axis.plot(sizes, [r['ms'] for r in mine], marker='o', markersize=3, label=path)
                axis.fill_between(
                    sizes, [r['low'] for r in mine], [r['high'] for r in mine], alpha=0.2
                )
            batch, channels, height, width = chosen[0]['shape']
            fixed = f'{channels} channels' if sweep == 'pixels' else f'{height}x{width} pixels'
            axis.set(xscale='log', yscale='log', xlabel=sweep, ylabel='ms',
                     title=f'{name}, {batch} x {fixed}')  # fmt: skip
            axis.grid(alpha=0.3)
    axes[0][0].legend()
    return figure


def _draw_bars(rows: list[dict]):
    """Time over that of a copy of the map, by shape and path, a panel for each pass."""
    passes = list(dict.fromkeys(row['passes'] for row in rows))
    paths = list(dict.fromkeys(row['path'] for row in rows if row['path'] != 'copy'))
    figure, axes = plt.subplots(1, len(passes), figsize=(5 * len(passes), 3.4), squeeze=False)
    for axis, name in zip(axes[0], passes):
        shapes = list(dict.fromkeys(
            ('x'.join(map(str, r['shape'])), r['dtype'], r['layout']) for r in rows
        ))  # fmt: skip
        for number, path in enumerate(paths):
            mine = [r for r in rows if r['passes'] == name and r['path'] == path]
            places = [
                place + 0.8 * (number + 0.5) / len(paths) - 0.4 for place in range(len(shapes))
            ]
            axis.bar(places, [r['over_copy'] for r in mine], 0.8 / len(paths), label=path)
        axis.set_xticks(range(len(shapes)), ['\n'.join(s) for s in shapes], fontsize=7)
        axis.set(yscale='log', ylabel='time / time of a copy', title=name)
        axis.set_ylim(bottom=1)  # a copy itself
        axis.grid(axis='y', alpha=0.3)
    axes[0][0].legend()
    return figure

"""The plots of a comparison, and all of it as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import html
import io
import statistics
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..cli import UserError
from . import logs
from .compare import Run
from .compare_table import NOTE, shown

COST_NAMES = dict(
    parameters='parameters',
    gflops='GFLOPs',
    train_images_per_second='training images/s',
    test_images_per_second='inference images/s',
    peak_mb='peak MB of a training step',
)
Curve = dict  # of float by epoch or iteration


def read_curves(run: Run, metric: str) -> tuple[Curve, Curve]:
    """Training loss, and the metric in validation, by epoch, or by iteration without epochs."""
    by_iteration = bool(run.config.cfg.train_cfg.get('max_iters'))
    try:
        log = logs.read(run.folder)
    except UserError:  # a config may keep no log: the rest of the page needs none
        return {}, {}
    losses = defaultdict(list)
    for row in log.training:
        losses[row['step'] if by_iteration else row['epoch']].append(row['loss'])
    scores = {row['step']: row[metric] for row in log.validation if metric in row}
    return {x: statistics.fmean(values) for x, values in losses.items()}, scores


def band(curves: list[Curve]) -> tuple[list, list, list]:
    """Mean and standard deviation over the seeds, where all of them have a value."""
    common = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    columns = [[curve[x] for curve in curves] for x in common]
    deviations = [statistics.stdev(c) if len(c) > 1 else 0.0 for c in columns]
    return common, [statistics.fmean(c) for c in columns], deviations


def draw_curves(runs: list[Run], metric: str) -> dict[str, Figure]:
    """One figure for the training loss, one for the metric in validation, if it was taken."""
    by_config = defaultdict(list)
    for run in runs:
        by_config[run.config.name].append(read_curves(run, metric))
    x_label = 'iteration' if runs[0].config.cfg.train_cfg.get('max_iters') else 'epoch'
    figures = {}
    for i, label in enumerate(('training loss', f'validation {metric}')):
        figure, axis = plt.subplots(figsize=(8, 4.5), layout='constrained')
        for name, pairs in by_config.items():
            x, mean, deviation = band([pair[i] for pair in pairs])
            if not x:
                continue
            (line,) = axis.plot(x, mean, marker='o' if len(x) < 3 else None, label=name)
            low, high = ([m + s * d for m, d in zip(mean, deviation)] for s in (-1, 1))
            axis.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        if axis.lines:
            axis.set(xlabel=x_label, ylabel=label)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)
            figures[f'{label}: mean, and a band of one standard deviation over the seeds'] = figure
        plt.close(figure)
    return figures


def draw_costs(rows: list[dict]) -> dict[str, Figure]:
    """The metric against each cost that is known."""
    figures = {}
    for key, name in COST_NAMES.items():
        known = [row for row in rows if row[key] is not None and row['mean'] is not None]
        if not known:
            continue
        figure, axis = plt.subplots(figsize=(6, 4.5), layout='constrained')
        for row in known:
            axis.errorbar(row[key], row['mean'], row['std'] or 0, marker='o', capsize=3,
                          linestyle='', label=row['config'])  # fmt: skip
        axis.set(xlabel=name, ylabel=known[0]['metric'])
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        figures[f'{known[0]["metric"]} against {name}'] = figure
        plt.close(figure)
    return figures


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 sans-serif; margin: 2em auto; max-width: 80em; padding: 0 1em; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
td, th {{ border-bottom: 1px solid #ccc; padding: .3em .7em; text-align: right; }}
td:first-child, th:first-child {{ text-align: left; }}
figure {{ display: inline-block; margin: 1em 1em 1em 0; max-width: 100%; }}
img {{ max-width: 100%; }}
</style>
</head>
<body>
<h1>{title}</h1>
{table}
<p>{note}</p>
{failed}{figures}</body>
</html>
"""


def page(rows: list[dict], figures: dict[str, Figure], failed: dict[str, str]) -> str:
    """The page: table, notes, what failed, plots as SVG inside it."""
    head, *body = shown(rows)
    table = '<table>\n' + _line('th', head) + ''.join(_line('td', row) for row in body) + '</table>'
    errors = ''.join(f'<li>{html.escape(f"{k}: {v}")}</li>' for k, v in failed.items())
    return PAGE.format(
        title=html.escape(f'{rows[0]["metric"]} of {len(rows)} configs'),
        table=table,
        note=html.escape(NOTE),
        failed=f'<h2>Failed runs</h2>\n<ul>{errors}</ul>\n' if failed else '',
        figures=''.join(_figure(caption, figure) for caption, figure in figures.items()),
    )


def _line(tag: str, cells: list[str]) -> str:
    return f'<tr>{"".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)}</tr>\n'


def _figure(caption: str, figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format='svg', metadata={'Date': None})
    source = 'data:image/svg+xml;base64,' + base64.b64encode(file.getvalue()).decode()
    text = html.escape(caption)
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>\n'


def save_plots(figures: dict[str, Figure], folder: Path) -> None:
    """The same plots as files, for a paper or a slide."""
    folder.mkdir(parents=True, exist_ok=True)
    for caption, figure in figures.items():
        name = ''.join(c if c.isalnum() else '_' for c in caption.split(':')[0])
        figure.savefig(folder / f'{name}.png', dpi=120)

"""Loss, metrics and learning rate of training runs on one sheet."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..analysis import logs
from ..analysis.compare_table import choose_metric
from ..cli import UserError

NOT_METRICS = ('time', 'data_time', 'step', 'epoch', 'iter', 'memory')
MARKED = 30  # a curve of fewer points shows them


def read(work_dirs: list[Path], metrics: list[str] | None = None) -> dict[str, dict]:
    """Reads the curves of runs.

    Args:
        work_dirs: Work dirs of trainings; see :func:`scsa.analysis.logs.read`.
        metrics: What to take of the validations, the part behind a slash is enough; by default
            the usual one of the task, as far as it is known, else the first that was logged.

    Returns:
        By the run's name a dict of curves, each two lists: ``loss`` and ``lr`` by iteration,
        and each metric by epoch, or by iteration if the run does not count epochs. ``by_epoch``
        says which. A run without validation has no metric.

    Raises:
        UserError: if a run has no log, or no run has a metric of that name.
    """
    runs = {name: logs.read(path) for name, path in _names(work_dirs).items()}
    found = {key: None for log in runs.values() for row in log.validation for key in row}
    found = [key for key in found if key not in NOT_METRICS]
    if metrics or found:
        metrics = [choose_metric(found, metric) for metric in metrics or [None]]
    curves = {}
    for name, log in runs.items():
        curves[name] = dict(
            by_epoch=log.by_epoch, loss=_curve(log.training, 'loss'), lr=_curve(log.training, 'lr')
        )
        curves[name].update({metric: _curve(log.validation, metric) for metric in metrics or ()})
    return curves


def _names(work_dirs: list[Path]) -> dict[str, Path]:
    """The runs by the shortest ends of their paths that differ."""
    paths = [path.resolve() for path in work_dirs]
    if len(set(paths)) < len(paths):
        raise UserError('a work dir is given twice')
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ['/'.join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, work_dirs))


def _curve(rows: list[dict], key: str) -> list[list]:
    rows = [row for row in rows if key in row]
    return [[row['step'] for row in rows], [row[key] for row in rows]]


def draw(curves: dict[str, dict], log_loss: bool = False) -> Figure:
    """Draws what :func:`read` gave, a panel for the loss, for each metric and for the rate.

    Args:
        curves: The curves of the runs.
        log_loss: Whether the axis of the loss is logarithmic.
    """
    keys = [key for key in next(iter(curves.values())) if key not in ('by_epoch', 'loss', 'lr')]
    panels = ['loss', *keys, 'lr']
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 4), layout='constrained'
    )
    counts = dict.fromkeys('epoch' if run['by_epoch'] else 'iteration' for run in curves.values())
    for axis, key in zip(axes, panels):
        for number, (name, run) in enumerate(curves.items()):
            # Colours and dashes: runs can be told apart without seeing the colours.
            style = dict(color=plt.get_cmap('viridis')(number / max(1, len(curves) - 0.5)),
                         linestyle=('-', '--', ':', '-.')[number % 4])  # fmt: skip
            marker = 'o' if len(run[key][0]) < MARKED else None
            axis.plot(*run[key], marker=marker, markersize=3, label=name, **style)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(nbins='auto', integer=True))
        axis.set(xlabel=' or '.join(counts) if key in keys else 'iteration')
        axis.set_title(dict(loss='training loss', lr='learning rate').get(key, f'validation {key}'))
    if log_loss:
        axes[0].set_yscale('log')
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=min(4, len(labels)))
    plt.close(figure)
    return figure

"""The table of a comparison: means over seeds, differences to the first config and what they cost.

The test is paired: run by run of the same seed, for what a seed fixes (the order of the data, the
augmentation) both configs share.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
from typing import NamedTuple

import numpy as np
from scipy import stats

from ..cli import UserError

LEVEL = 0.05
USUAL = ('accuracy/top1', 'coco/bbox_mAP', 'pascal_voc/mAP', 'mIoU')
COSTS = ('parameters', 'gflops', 'train_images_per_second', 'test_images_per_second', 'peak_mb')


class Difference(NamedTuple):
    """Another config's metric minus the first's, over the seeds that both have."""

    mean: float
    low: float | None = None  # ends of the 95 % confidence interval
    high: float | None = None
    p: float | None = None  # of the paired t-test; None where it says nothing


def paired(first: dict[int, float], other: dict[int, float]) -> Difference | None:
    """The paired t-test of two configs.

    Args:
        first: The metric by seed.
        other: Likewise; only the seeds of both count.

    Returns:
        None without a common seed. No interval and no p with a single one, or where all differ by
        the same amount and not by 0: there is nothing then by which to judge the difference.
    """
    seeds = sorted(first.keys() & other.keys())
    if not seeds:
        return None
    a, b = (np.array([values[seed] for seed in seeds], float) for values in (first, other))
    differences = b - a
    mean = float(differences.mean())
    if len(seeds) < 2 or not np.isfinite(differences).all():
        return Difference(mean)
    if not differences.any():
        return Difference(0.0, 0.0, 0.0, 1.0)
    if np.ptp(differences) <= 1e-9 * np.abs(differences).max():
        return Difference(mean)
    test = stats.ttest_rel(b, a)
    interval = test.confidence_interval(1 - LEVEL)
    return Difference(mean, float(interval.low), float(interval.high), float(test.pvalue))


def holm(values: list[float | None]) -> list[float | None]:
    """P-values corrected for there being several (Holm's step-down method)."""
    known = sorted((p, i) for i, p in enumerate(values) if p is not None)
    corrected, largest = list(values), 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[i] = largest
    return corrected


def choose_metric(found: list[str], wanted: str | None = None, save_best: str | None = None) -> str:
    """The metric to compare.

    Args:
        found: Names that the evaluator gave.
        wanted: What the user asked for; the part behind the slash is enough.
        save_best: By what the config keeps its best checkpoint.

    Raises:
        UserError: if the one that is wanted is not there, or is several, or if there is none.
    """
    if wanted is not None:
        fits = [name for name in found if name == wanted]
        fits = fits or [name for name in found if name.rsplit('/', 1)[-1] == wanted]
        if len(fits) != 1:
            raise UserError(f'--metric {wanted}: choose one of {", ".join(found)}')
        return fits[0]
    if not found:
        raise UserError(
            'the tests gave no number; set test_evaluator, or train longer: a detector that finds '
            'nothing gets none'
        )
    usual = [name for name in (save_best, *USUAL) if name in found]
    return (usual or found)[0]


def less_is_better(metric: str) -> bool:
    """Whether a metric is an error, by its name."""
    last = metric.rsplit('/', 1)[-1].lower()
    return any(word in last for word in ('loss', 'error', 'mae', 'rmse', 'mse'))


def numbers(metrics: dict) -> dict[str, float]:
    """Those entries of an evaluator's result that are single numbers."""
    return {k: float(v) for k, v in metrics.items() if isinstance(v, (int, float))}


def table_rows(
    values: dict[str, dict[int, float]], costs: dict[str, dict], metric: str
) -> list[dict]:
    """A row for each config, the first being what the others are compared with.

    Args:
        values: By config the metric by seed.
        costs: By config what :data:`COSTS` names, as far as it is known.
        metric: The name of the metric.
    """
    names = list(values)
    differences = [paired(values[names[0]], values[name]) for name in names[1:]]
    corrected = holm([d.p if d else None for d in differences])
    sign = -1 if less_is_better(metric) else 1
    rows = []
    for name, d, p in zip(names, [None, *differences], [None, *corrected]):
        got = list(values[name].values())
        row = dict(
            config=name,
            metric=metric,
            runs=len(got),
            mean=statistics.fmean(got) if got else None,
            std=statistics.stdev(got) if len(got) > 1 else None,
            difference=d.mean if d else None,
            low=d.low if d else None,
            high=d.high if d else None,
            p=d.p if d else None,
            p_holm=p,
            verdict='' if name == names[0] else verdict(d, p, sign),
        )
        row.update({key: costs.get(name, {}).get(key) for key in COSTS})
        rows.append(row)
    return rows


def verdict(difference: Difference | None, p: float | None, sign: int) -> str:
    """What the test says of a config, in words."""
    if difference is None or p is None:
        return 'not testable'
    if p >= LEVEL:
        return 'no difference found'
    return 'better' if difference.mean * sign > 0 else 'worse'


HEADERS = (
    *('config', '{metric}', 'runs', 'difference', '95 % interval', 'p', 'verdict'),
    *('parameters', 'GFLOPs', 'training images/s', 'inference images/s', 'peak MB'),
)
NOTE = (
    'Mean ± standard deviation over the seeds. Difference to the first config: paired t-test over '
    'the seeds, p corrected for the number of configs (Holm), the interval of each by itself. '
    '"No difference found" is not "no difference": few seeds find only large ones. '
    'Images a second and the peak memory of a training step are those of the network alone, on '
    'made-up images, without data loading and losses; they change from one measurement to the next.'
)


def cells(row: dict, digits: str) -> list[str]:
    """A row as it is shown.

    Args:
        row: One of :func:`table_rows`.
        digits: The format of the metric, such as ``'.2f'``.
    """

    def show(key: str, form: str) -> str:
        return '-' if row[key] is None else format(row[key], form)

    std = '' if row['std'] is None else f' ± {row["std"]:{digits}}'
    interval = '-' if row['low'] is None else f'{row["low"]:+{digits}} to {row["high"]:+{digits}}'
    compared = [show('difference', f'+{digits}'), interval, show('p_holm', '.3g')]
    return [
        row['config'],
        show('mean', digits) + std,
        str(row['runs']),
        *(compared if row['verdict'] else [''] * 3),
        row['verdict'],
        show('parameters', ','),
        show('gflops', '.3f'),
        show('train_images_per_second', '.1f'),
        show('test_images_per_second', '.1f'),
        show('peak_mb', '.0f'),
    ]


def shown(rows: list[dict]) -> list[list[str]]:
    """The whole table as it is shown, its header first."""
    largest = max((abs(row['mean']) for row in rows if row['mean'] is not None), default=0)
    digits = '.2f' if largest > 1.5 else '.4f'  # percent, or a share such as an mAP of 0.371
    header = [text.format(metric=rows[0]['metric']) for text in HEADERS]
    return [header, *(cells(row, digits) for row in rows)]


def markdown(rows: list[dict]) -> str:
    """The table as Markdown."""
    header, *body = shown(rows)
    lines = [header, ['---', *['---:'] * 5, '---', *['---:'] * 5], *body]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines) + f'\n{NOTE}\n'


def as_csv(rows: list[dict]) -> str:
    """The table as CSV, all figures as they are."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(rows: list[dict], values: dict[str, dict[int, float]], failed: dict[str, str]) -> str:
    """The table as JSON, with the metric of every run."""
    runs = {name: {str(seed): value for seed, value in v.items()} for name, v in values.items()}
    return json.dumps(dict(rows=rows, runs=runs, failed=failed), indent=1) + '\n'

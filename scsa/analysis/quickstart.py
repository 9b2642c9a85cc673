"""What a classification run on the digits gave: top-1, curves, predictions drawn on images."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.image import imread

from ..cli import existing
from . import logs

PREDICTIONS = 'predictions.pkl'


class Prediction(NamedTuple):
    """One tested image."""

    path: str
    truth: int
    label: int
    score: float


def read_predictions(work_dir: Path) -> list[Prediction]:
    """Read what ``tools/test.py --out WORK_DIR/predictions.pkl`` wrote for a classifier."""
    path = existing(
        work_dir / PREDICTIONS, 'predictions', f'write them with tools/test.py --out {work_dir}/…'
    )
    with path.open('rb') as file:
        return [
            Prediction(
                path=sample['img_path'],
                truth=int(sample['gt_label']),
                label=int(sample['pred_label']),
                score=float(sample['pred_score'].max()),
            )
            for sample in pickle.load(file)
        ]


def top1(predictions: list[Prediction]) -> float:
    """The share of right labels, in percent."""
    return 100 * sum(p.label == p.truth for p in predictions) / len(predictions)


def read_curves(work_dir: Path) -> tuple[list[tuple], list[tuple]]:
    """Read the training log.

    Returns:
        (epoch, loss) at every logged step and (epoch, top-1 in percent) at every validation.
    """
    log = logs.read(work_dir)
    tops = [(r['step'], r['accuracy/top1']) for r in log.validation if 'accuracy/top1' in r]
    return [(row['epoch'], row['loss']) for row in log.training], tops


def draw_curves(work_dirs: list[Path], out: Path) -> None:
    """Draw loss and accuracy of one or more runs over the epochs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for work_dir in work_dirs:
        losses, tops = read_curves(work_dir)
        left.plot(*zip(*losses), marker='o', label=work_dir.name)
        right.plot(*zip(*tops), marker='o', label=work_dir.name)
    left.set(xlabel='epoch', ylabel='training loss', yscale='log')
    right.set(xlabel='epoch', ylabel='validation top-1 (%)')
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(out, dpi=120)
    plt.close(figure)


def draw_predictions(predictions: list[Prediction], out: Path, count: int = 20) -> None:
    """Draw images with their predictions, the wrong ones (in red) first, then an even sample."""
    wrong = [p for p in predictions if p.label != p.truth][: count // 2]
    right = [p for p in predictions if p.label == p.truth]
    left = count - len(wrong)
    right = right[:: max(1, len(right) // left)][:left]
    figure, axes = plt.subplots(-(-count // 5), 5, figsize=(8, 1.9 * -(-count // 5)))
    for axis in axes.flat:
        axis.axis('off')
    for axis, p in zip(axes.flat, wrong + right):
        axis.imshow(imread(p.path), cmap='gray_r')
        said = f'{p.label} ({p.score:.2f})' + ('' if p.label == p.truth else f', is {p.truth}')
        axis.set_title(said, fontsize=10, color='black' if p.label == p.truth else 'red')
    figure.tight_layout()
    figure.savefig(out, dpi=120)
    plt.close(figure)


def report(work_dirs: list[Path]) -> str:
    """Draw ``curves.png`` and ``predictions.png`` into each work dir.

    Several runs are also drawn side by side, into ``comparison.png`` of the first.

    Returns:
        A line of text for each run.
    """
    lines = []
    for work_dir in work_dirs:
        predictions = read_predictions(work_dir)
        draw_curves([work_dir], work_dir / 'curves.png')
        draw_predictions(predictions, work_dir / 'predictions.png')
        right = sum(p.label == p.truth for p in predictions)
        lines.append(
            f'{work_dir.name:24} top-1 {top1(predictions):6.2f} %  '
            f'({right} of {len(predictions)}; {work_dir}/curves.png, predictions.png)'
        )
    if len(work_dirs) > 1:
        draw_curves(work_dirs, work_dirs[0] / 'comparison.png')
        lines.append(f'side by side: {work_dirs[0]}/comparison.png')
    return '\n'.join(lines)

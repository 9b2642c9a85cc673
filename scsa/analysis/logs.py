"""What a training run logged, as mmengine's LoggerHook writes it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Iterator, NamedTuple

from ..cli import UserError, existing


class Log(NamedTuple):
    """The rows of a run, each a dict of numbers, in the order of their ``step``.

    In ``training`` a step is an iteration. In ``validation`` it is an epoch if ``by_epoch``, else
    an iteration.
    """

    training: list[dict]
    validation: list[dict]

    @property
    def by_epoch(self) -> bool:
        epochs = max(row.get('epoch', 0) for row in self.training)
        return all(row['step'] <= epochs for row in self.validation) and epochs > 0


def parsed(lines: list[str]) -> Iterator[dict]:
    """The rows of a log of scalars, without those that a killed process left unfinished."""
    for line in lines:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and 'step' in row:
                yield row


def read(path: str | Path) -> Log:
    """Reads the log of a run.

    A run that was resumed has several files. Where the next one begins, it holds.

    Args:
        path: A work dir, one of the time-stamped folders in it, or a JSON file of scalars.

    Raises:
        UserError: if there is none, or nothing was trained.
    """
    path = existing(path, 'work dir', 'give the --work-dir of a training')
    training: dict[int, dict] = {}
    validation: dict[int, dict] = {}
    for file in [path] if path.is_file() else _files(path):
        rows = list(parsed(file.read_text('utf-8', 'replace').splitlines()))
        _go_on(training, [row for row in rows if _of_training(row)])
        _go_on(validation, [row for row in rows if not _of_training(row)])
    if not training:
        raise UserError(
            f'no training log in {path}; train with tools/train.py --work-dir {path}, and keep '
            'LocalVisBackend among the vis_backends'
        )
    return Log(*([rows[step] for step in sorted(rows)] for rows in (training, validation)))


def _of_training(row: dict) -> bool:
    return 'iter' in row or 'loss' in row


def _go_on(known: dict[int, dict], rows: list[dict]) -> None:
    start = min((row['step'] for row in rows), default=float('inf'))
    for step in [step for step in known if step >= start]:
        del known[step]
    known.update((row['step'], row) for row in rows)


def _files(work_dir: Path) -> Iterator[Path]:
    for folder in sorted(work_dir.glob('*/vis_data')) or [work_dir / 'vis_data']:
        scalars = folder / 'scalars.json'
        # The same rows stand in TIMESTAMP.json.
        yield from [scalars] if scalars.exists() else sorted(folder.glob('*.json'))[:1]

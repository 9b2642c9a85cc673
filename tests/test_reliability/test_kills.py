"""Twenty times `kill -9`, each followed by `--resume`: the weights of a run that was not killed.

The moments are random, over the whole life of a process: its start, steps, validation, writing.
Every third kill is aimed at the writing of a checkpoint: it falls when the file with the unfinished
checkpoint has appeared. What counts as inside is seen afterwards, by the unfinished file. The run
is one process after another, each of which runs tools/train.py (forked_tools.py says how).
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from tools_helpers import CONFIG, DETECTION, SEGMENTATION, forked_tools, tiny, tiny_scenes

pytest.importorskip('mmpretrain', reason='the runs are those of mmengine')
from scsa.engine.safe_load import load

pytestmark = [pytest.mark.slow, pytest.mark.alone]
KILLS, INSIDE = 20, 5
MOST = 200  # processes, should many of them be killed before they have done anything


class Runs:
    """Runs of tools/train.py on one config, one process after another."""

    def __init__(self, folder: Path, arguments: list):
        self.folder, self.arguments = folder, arguments

    def start(self, work_dir: Path, *more: str) -> int:
        """Starts a run; returns its process id."""
        command = ['tools/train.py', *self.arguments, '--work-dir', work_dir, *more]
        return forked_tools().start(self.folder / f'{work_dir.name}.log', *command)

    def end(self) -> int:
        """Waits for the end of the run that was started last; returns its exit code."""
        return forked_tools().end()

    def log(self, work_dir: Path) -> str:
        return (self.folder / f'{work_dir.name}.log').read_text()


def checkpoints(folder: Path) -> set[str]:
    return {path.name for path in folder.glob('*.pth') if re.match(r'(epoch|iter)_', path.name)}


def unfinished(folder: Path) -> set[str]:
    return {path.name for path in folder.glob('*.part')}


def wait(folder: Path, process: int, seconds: float, count: int) -> None:
    """Waits for some time, until so many checkpoints are written, or until the run has ended."""
    known, end = checkpoints(folder), time.monotonic() + seconds
    new = set()  # also those that are gone again
    while time.monotonic() < end and len(new) < count and alive(process):
        new |= checkpoints(folder) - known
        time.sleep(0.001)


def wait_for_writing(folder: Path, process: int, count: int) -> None:
    """Waits until so many checkpoints are written and another has been begun, or for the end."""
    left_by_a_kill = unfinished(folder)
    wait(folder, process, 600, count)
    while unfinished(folder) in (set(), left_by_a_kill) and alive(process):
        pass


def alive(process: int) -> bool:
    """Whether a process is there; one that has ended is a zombie until it is waited for."""
    try:
        state = Path(f'/proc/{process}/stat').read_text().rsplit(')', 1)[1].split()[0]
    except OSError:
        return False
    return state != 'Z'


def kill_and_resume(runs: Runs, folder: Path, life: float, last: str) -> tuple[int, int, int]:
    """Kills a run again and again, then lets it end.

    Args:
        runs: The runs.
        folder: The work dir.
        life: Seconds from the start of a process within which it is killed at random.
        last: The name of the run's last checkpoint.

    Returns:
        How often it was killed, how often of that while a checkpoint was being written, and from
        how many checkpoints it was resumed.
    """
    chance, inside, resumed = random.Random(16), 0, set()
    for kills in range(MOST):
        process = runs.start(folder, '--resume')
        if kills >= KILLS and inside >= INSIDE:
            assert runs.end() == 0, runs.log(folder)[-4000:]
            return kills, inside, len(resumed)
        before = unfinished(folder)
        if kills % 3 == 2:
            wait_for_writing(folder, process, chance.randrange(1, 3))
            time.sleep(chance.choice([0, 0.0005, 0.002]))
        else:
            wait(folder, process, chance.uniform(0, life), 3)
        # Not its id alone: the workers of its loaders go with it.
        os.killpg(process, signal.SIGKILL)
        code = runs.end()
        assert code == -signal.SIGKILL, (
            f'ended by itself, {kills} kills: {runs.log(folder)[-4000:]}'
        )
        assert not (folder / last).exists(), 'killed too late to prove anything'
        inside += unfinished(folder) not in (set(), before)
        resumed.update(re.findall(r'resumed epoch: .*', runs.log(folder)))
    raise AssertionError('too many kills outside of the writing of a checkpoint')


def same(one, other, where: str = '') -> None:
    """Asserts that two states hold the same bits."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape, where
        assert torch.equal(one, other) or torch.equal(one.isnan(), other.isnan()), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            same(one[key], other[key], f'{where}.{key}')
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other)):
            same(*pair, f'{where}.{i}')
    else:
        assert one == other, where


def classification(digits, scenes):
    """Epochs of three steps with validation; a single checkpoint is kept."""
    options = tiny(
        digits,
        *('train_cfg.max_epochs=60', 'param_scheduler.total_steps=60'),
        'model.backbone.scsa_cfg.attn_drop_ratio=0.1',
        'default_hooks.checkpoint.max_keep_ckpts=1',
    )
    return [CONFIG, *options], 'epoch_60.pth'


def detection(digits, scenes):
    """Epochs of two steps without validation; all checkpoints are kept."""
    options = tiny_scenes(scenes, DETECTION)
    options += ['train_cfg.max_epochs=60', 'param_scheduler.total_steps=60']
    options += ['train_dataloader.dataset.pipeline.2.scale=(96,96)']
    options += ['model.backbone.scsa_cfg.attn_drop_ratio=0.1']
    return [DETECTION, '--no-validate', *options], 'epoch_60.pth'


def segmentation(digits, scenes):
    """A run counted in steps, with validation; two checkpoints are kept, and the best."""
    options = tiny_scenes(scenes, SEGMENTATION)
    options += ['train_cfg.max_iters=120', 'param_scheduler.0.total_steps=120']
    options += ['train_cfg.val_interval=20', 'default_hooks.checkpoint.interval=2']
    options += ['model.backbone.scsa_cfg.attn_drop_ratio=0.1']
    return [SEGMENTATION, *options], 'iter_120.pth'


TASKS = [classification, detection, segmentation]


@pytest.mark.parametrize('task', TASKS, ids=lambda task: task.__name__)
def test_a_run_that_is_killed_twenty_times(task, digits, scenes, tmp_path):
    arguments, last = task(digits, scenes)
    if task is not classification:
        pytest.importorskip('mmcv.ops', reason='mmdet and mmseg need mmcv with its operators')
    runs = Runs(tmp_path, arguments)
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    forked_tools()  # imports everything, which is no part of a run's life
    began = time.monotonic()
    process = runs.start(whole)
    while not checkpoints(whole):
        assert alive(process), runs.log(whole)[-4000:]
        time.sleep(0.01)
    life = 2 * (time.monotonic() - began)
    assert runs.end() == 0, runs.log(whole)[-4000:]
    took = time.monotonic() - began
    kills, inside, starts = kill_and_resume(runs, killed, life, last)
    print(
        f'{task.__name__}: {took:.0f} s without a kill; {kills} kills, {inside} of them inside '
        f'the writing; resumed from {starts} checkpoints'
    )
    assert kills >= KILLS and inside >= INSIDE and starts >= 3
    expected, found = load(whole / last), load(killed / last)
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        same(expected[part], found[part], part)
    assert not unfinished(killed)

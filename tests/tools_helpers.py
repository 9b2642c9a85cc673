"""Run the tools as users do, on digits so few and a network so small that it takes seconds."""

import atexit
import functools
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = 'configs/quickstart/resnet18_digits_scsa.py'
DETECTION = 'configs/quickstart/faster-rcnn_r18_scenes_scsa.py'
SEGMENTATION = 'configs/quickstart/fpn_r18_scenes_scsa.py'


def tiny(digits, *options):
    """Arguments that shrink the digits quick start."""
    return [
        '--cfg-options',
        f'train_dataloader.dataset.data_root={digits}',
        f'val_dataloader.dataset.data_root={digits}',
        f'test_dataloader.dataset.data_root={digits}',
        'train_dataloader.dataset.indices=96',
        'train_dataloader.batch_size=32',
        'val_dataloader.dataset.indices=20',
        'test_dataloader.dataset.indices=20',
        'model.backbone.stem_channels=8',
        'model.backbone.base_channels=8',
        'model.head.in_channels=64',
        'param_scheduler.total_steps=3',
        'train_cfg.max_epochs=3',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.max_keep_ckpts=-1',
        *options,
    ]


def tiny_scenes(scenes, task):
    """Arguments that shrink a quick start to two steps, both under the same learning rate."""
    root = scenes / 'ade' if task == SEGMENTATION else scenes
    found = [f'{part}_dataloader.dataset.data_root={root}' for part in ('train', 'val', 'test')]
    found += ['train_dataloader.batch_size=3', 'default_hooks.logger.interval=1']
    if task == SEGMENTATION:
        found += ['train_cfg.max_iters=2', 'train_cfg.val_interval=2']
        found += ['model.backbone.init_cfg=None']
        found += ['default_hooks.checkpoint.interval=2', 'param_scheduler.0.total_steps=2']
    else:
        annotations = scenes / 'annotations/instances_val.json'
        found += [f'{part}_evaluator.ann_file={annotations}' for part in ('val', 'test')]
        found += ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
        found += ['param_scheduler.total_steps=1', 'model.test_cfg.rcnn.score_thr=0']
    return ['--cfg-options', *found]


def environment():
    # One thread: sums then have one order, and two processes do not fight for the cores.
    return dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT), SCSA_DEBUG='')


class ForkedTools:
    """Tools, one after another, each in a fork of a process that has imported everything."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / 'tests/forked_tools.py')],
            cwd=ROOT,
            # By NVML, for CUDA that was asked for devices does not survive a fork.
            env=dict(environment(), OPENBLAS_NUM_THREADS='1', PYTORCH_NVML_BASED_CUDA_CHECK='1'),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self.process.stdin.close)
        assert self._line() == 'ready'

    def _line(self):
        return self.process.stdout.readline().strip()

    def start(self, log, *command):
        """Starts a tool whose output goes to a file; returns its process id."""
        self.process.stdin.write(json.dumps([str(part) for part in (log, *command)]) + '\n')
        self.process.stdin.flush()
        return int(self._line())

    def end(self):
        """Waits for the end of the tool; returns its exit code."""
        return int(self._line())


@functools.lru_cache(maxsize=None)
def forked_tools():
    return ForkedTools()


def run_tool(*command):
    """Run a tool in a process of its own; show its output if it fails."""
    with tempfile.NamedTemporaryFile('r') as log:
        forked_tools().start(log.name, *command)
        code, seen = forked_tools().end(), log.read()
    assert code == 0, seen[-4000:]
    return seen


def run_python(*arguments):
    """Run Python as a user would, importing everything anew; show its output if it fails."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def refusal(monkeypatch, capsys, *arguments):
    """Run a tool that must refuse its arguments, in this process; give the line it prints."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', [str(a) for a in arguments])
    monkeypatch.delenv('SCSA_DEBUG', raising=False)
    try:
        runpy.run_path(str(arguments[0]), run_name='__main__')
    except SystemExit as stop:
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error:')]
        assert stop.code == 2 and len(lines) == 1, (stop.code, lines)
        return lines[0]
    raise AssertionError('the tool did not refuse')


def save_checkpoint(config, path, classes):
    """Write what training would: the weights, here random ones, and the names of the classes."""
    import torch
    from mmengine.config import Config

    import scsa  # noqa: F401
    from scsa.analysis.complexity import build

    torch.manual_seed(0)
    state = build(Config.fromfile(ROOT / config)).state_dict()
    torch.save({'state_dict': state, 'meta': {'dataset_meta': {'classes': classes}}}, path)

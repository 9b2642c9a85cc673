"""Two processes of torchrun: one result, the same as that of one process, and one end."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tools_helpers import CONFIG, ROOT, environment

pytest.importorskip('mmpretrain', reason='the runs are those of mmengine')
from scsa.engine.safe_load import load

pytestmark = [pytest.mark.slow, pytest.mark.alone]
# No augmentation and no statistics of a batch: then it does not matter which process has an image.
RUN = """
_base_ = '{base}'
custom_imports = dict(imports=['scsa', 'rank_hooks'])
custom_hooks = [dict(type='NoteHook'){hooks}]
model = dict(
    backbone=dict(
        stem_channels=8, base_channels=8, norm_eval=True, norm_cfg=dict(type='{norm}')
    ),
    head=dict(in_channels=64),
)
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size={batch}, dataset=dict(data_root='{digits}', pipeline=pipeline, indices=96)
)
val_dataloader = dict(dataset=dict(data_root='{digits}', indices=20))
train_cfg = dict(max_epochs={epochs})
optim_wrapper = dict(accumulative_counts={counts})
param_scheduler = dict(type='ConstantLR', factor=1.0, _delete_=True)
"""


class Outcome:
    def __init__(self, folder, code, seen):
        self.folder, self.code, self.seen = folder, code, seen

    def noted(self, rank):
        return torch.load(self.folder / f'rank_{rank}.pt')


@pytest.fixture(scope='module')
def train(digits, tmp_path_factory):
    """Trains the digits with a global batch of 32."""

    def run(processes, batch, counts=1, epochs=1, hooks='', norm='BN'):
        folder = tmp_path_factory.mktemp('run')
        config = folder / 'config.py'
        settings = dict(batch=batch, counts=counts, epochs=epochs)
        settings.update(hooks=hooks, norm=norm)
        config.write_text(RUN.format(base=ROOT / CONFIG, digits=digits, **settings))
        tool = ['tools/train.py', str(config), '--work-dir', str(folder), '--no-validate']
        if processes > 1:
            launch = [
                '-m',
                'torch.distributed.run',
                '--standalone',
                f'--nproc-per-node={processes}',
            ]
            tool = [*launch, *tool, '--launcher', 'pytorch']
        path = f'{ROOT}{os.pathsep}{Path(__file__).parent}'
        done = subprocess.run(
            [sys.executable, *tool],
            cwd=ROOT,
            env=dict(environment(), PYTHONPATH=path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1800,
        )
        return Outcome(folder, done.returncode, done.stdout)

    return run


@pytest.fixture(scope='module')
def one(train):
    outcome = train(1, 32)
    assert outcome.code == 0, outcome.seen[-4000:]
    return outcome


def left_over(folder):
    """Processes, and zombies, that know of a run."""
    found = []
    for entry in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            if str(folder) in entry.read_text():
                found.append(entry.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize(('batch', 'counts'), [(16, 1), (8, 2)])
def test_two_processes_do_what_one_does(batch, counts, one, train):
    """With half of the batch each, and with a quarter, twice before a step."""
    two = train(2, batch, counts)
    assert two.code == 0, two.seen[-4000:]
    first, second, single = two.noted(0), two.noted(1), one.noted(0)
    for key, value in first['state'].items():
        assert torch.equal(second['state'][key], value), key
        torch.testing.assert_close(value, single['state'][key], rtol=1e-4, atol=1e-5)
    assert len(first['losses']) == 3 * counts
    both = torch.tensor([first['losses'], second['losses']], dtype=torch.float64).mean(0)
    expected = torch.tensor(single['losses'], dtype=torch.float64)
    torch.testing.assert_close(both.reshape(3, counts).mean(1), expected, rtol=1e-4, atol=0)
    assert expected[0] != expected[2]  # the guard: it has learnt something
    saved = load(two.folder / 'epoch_1.pth')['state_dict']
    assert all(torch.equal(saved[key], value) for key, value in first['state'].items())


def test_a_process_that_dies_ends_the_run(train):
    began = time.monotonic()
    outcome = train(2, 16, epochs=1000, hooks=", dict(type='DieHook', step=4, signal=9)")
    assert outcome.code not in (0, None)
    assert 'Signal 9 (SIGKILL)' in outcome.seen and 'rank      : 1' in outcome.seen
    assert (outcome.folder / 'epoch_1.pth').exists()  # which --resume takes
    assert left_over(outcome.folder) == []
    print(f'ended {time.monotonic() - began:.0f} s after the start')


@pytest.mark.parametrize('torchrun', [False, True])
def test_sigterm_ends_both_after_the_same_step(torchrun, train):
    """Whether it comes to one process alone, or to both, by way of torchrun."""
    hook = f", dict(type='DieHook', step=4, signal=15, torchrun={torchrun})"
    outcome = train(2, 16, epochs=1000, hooks=hook)
    assert outcome.code not in (0, None)
    assert outcome.seen.count('stopped by SIGTERM after step') == 1, outcome.seen[-4000:]
    assert 'Connection closed by peer' not in outcome.seen
    assert load(outcome.folder / 'interrupted.pth')['state_dict']
    assert left_over(outcome.folder) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason='here are GPUs')
def test_norms_that_need_gpus_are_one_line(train):
    """Statistics over processes: torch has them on GPUs alone."""
    outcome = train(2, 16, norm='SyncBN')
    assert outcome.code != 0
    lines = [line for line in outcome.seen.splitlines() if line.startswith('error: ')]
    assert len(lines) == 2 and 'SyncBN shares statistics between processes' in lines[0]
    assert 'Traceback' not in outcome.seen.split('error: ')[0]

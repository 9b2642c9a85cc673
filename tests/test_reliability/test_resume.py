"""A run counted in steps that is resumed ends with the weights of one that was never stopped."""

import os
import signal
import time

import numpy as np
import pytest
import torch

pytest.importorskip('mmengine', reason='the runs are those of mmengine')
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner, loops
from torch import nn

from scsa.engine.checkpoints import keep_seed
from scsa.engine.hooks import ProgressLineHook, ResumableSeedHook, TerminationHook

STEPS, HALF = 9, 4


class Noisy(torch.utils.data.Dataset):
    """Five images, each augmented with the random numbers of NumPy and torch."""

    loaded = 0

    def __len__(self):
        return 5

    def __getitem__(self, index):
        Noisy.loaded += 1
        noise = torch.tensor(np.random.rand(3), dtype=torch.float32) + torch.rand(3)
        return torch.full((3,), float(index)) + noise


class Model(BaseModel):
    """A layer and dropout."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, inputs, mode='loss'):
        if mode == 'predict':
            return list(torch.rand(len(inputs)))  # validation may draw random numbers too
        out = nn.functional.dropout(self.layer(inputs), 0.5)
        return dict(loss=out.square().mean())


class Terminated(Hook):
    """Has the batch system end the run."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == HALF:
            os.kill(os.getpid(), signal.SIGTERM)


def collate(items):
    return dict(inputs=torch.stack(items))


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Trains nine steps of two images, to which mmengine gives a pause where the images end."""
    monkeypatch.setattr(loops.time, 'sleep', lambda seconds: None)

    def run(name, sampler, workers, seed, resume=None, every=1, hooks=()):
        loader = dict(dataset=Noisy(), batch_size=2, collate_fn=collate)
        cfg = Config(dict(randomness=dict(seed=seed), load_from=resume and str(resume)))
        if resume:
            keep_seed(cfg)
        torch.manual_seed(1)
        runner = Runner(
            Model(),
            work_dir=str(tmp_path / name),
            train_dataloader=dict(
                **loader, sampler=dict(type=sampler, shuffle=True), num_workers=workers
            ),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=STEPS, val_interval=2),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
            val_dataloader=dict(**loader, sampler=dict(type='DefaultSampler', shuffle=False)),
            val_cfg={},
            val_evaluator=[],
            default_hooks=dict(
                logger=None, checkpoint=dict(type='CheckpointHook', interval=every, by_epoch=False)
            ),
            load_from=cfg.load_from,
            resume=bool(resume),
            randomness=cfg.randomness,
            experiment_name=f'{name}-{time.monotonic_ns()}',
            log_level='ERROR',
        )
        for hook in (ResumableSeedHook(), ProgressLineHook(), *hooks):
            runner.register_hook(hook)
        Noisy.loaded = 0
        runner.train()
        return {k: v.clone() for k, v in runner.model.state_dict().items()}, runner

    return run


@pytest.mark.parametrize('seed', [3, None])
@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('sampler', ['InfiniteSampler', 'DefaultSampler'])
def test_a_resumed_run_ends_with_the_same_weights(sampler, workers, seed, train, tmp_path):
    """Also where the config names no seed, and the images end in the middle of the run."""
    whole, _ = train('whole', sampler, workers, seed)
    half = tmp_path / f'whole/iter_{HALF}.pth'
    resumed, runner = train('resumed', sampler, workers, seed, resume=half)
    assert runner.iter == STEPS
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key
    if seed:  # the guard: random numbers matter
        other, _ = train('other', sampler, workers, seed + 1)
        assert not torch.equal(other['layer.weight'], whole['layer.weight'])


def test_without_workers_what_is_done_is_not_loaded_again(train, tmp_path):
    train('whole', 'InfiniteSampler', 0, 3)
    whole = Noisy.loaded
    train('resumed', 'InfiniteSampler', 0, 3, resume=tmp_path / f'whole/iter_{STEPS - 1}.pth')
    validated = 5 * (STEPS // 2 + 1)
    assert whole == 2 * STEPS + validated
    assert Noisy.loaded <= 2 * 2 + 5  # the last step, the last validation; at most one to begin


def test_sigterm_saves_the_step_that_the_run_goes_on_from(train, tmp_path):
    whole, _ = train('whole', 'InfiniteSampler', 0, 3, every=100)
    with pytest.raises(SystemExit) as stop:
        train('ended', 'InfiniteSampler', 0, 3, every=100, hooks=[Terminated(), TerminationHook()])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert stop.value.code == 143
    saved = tmp_path / f'ended/iter_{HALF}.pth'
    assert (tmp_path / 'ended/last_checkpoint').read_text() == str(saved)
    resumed, _ = train('resumed', 'InfiniteSampler', 0, 3, resume=saved)
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())


def test_the_progress_line_counts_steps(train):
    _, runner = train('whole', 'InfiniteSampler', 0, 3)
    hook = ProgressLineHook()
    hook.started, hook.first = time.monotonic(), 0
    runner.train_loop._iter = HALF - 1
    assert hook.line(runner, HALF - 1, None).startswith(f'step {HALF}/{STEPS}  0:00:')

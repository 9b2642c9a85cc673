"""What a run of two processes shall do besides, for test_two_processes.py: note and die."""

import os
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class NoteHook(Hook):
    """Writes the losses and the last weights of this process beside its checkpoints."""

    def before_train(self, runner):
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs['loss']))

    def after_train(self, runner):
        state = getattr(runner.model, 'module', runner.model).state_dict()
        noted = dict(losses=self.losses, state=state)
        torch.save(noted, Path(runner.work_dir) / f'rank_{get_rank()}.pt')


@HOOKS.register_module()
class DieHook(Hook):
    """A signal from the second process, to itself or to torchrun, which tells all."""

    def __init__(self, step, signal, torchrun=False):
        self.step, self.signal, self.torchrun = step, signal, torchrun

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.step and get_rank() == 1:
            os.kill(os.getppid() if self.torchrun else os.getpid(), self.signal)

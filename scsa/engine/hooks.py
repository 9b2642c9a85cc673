"""Hooks of ours: a progress line, a run that can be resumed exactly, checks before and in it."""

from __future__ import annotations

import logging
import random
import signal
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from typing import Any, Sequence

import numpy as np
import torch
from mmengine.dist import all_reduce, barrier, get_rank, get_world_size
from mmengine.fileio import load
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from ..cli import UserError

TERMINATED = 143  # 128 + SIGTERM, the shell's convention
DATA = 1  # sets the random numbers of a batch apart from those of the step that takes it


@HOOKS.register_module()
class ProgressLineHook(Hook):
    """One line on the terminal that keeps saying epoch, step, loss and time left.

    Without a terminal on stderr, and on all ranks but the first, it does nothing: the log lines of
    mmengine are enough there.
    """

    priority = 'VERY_LOW'
    clear = '\r\033[K'

    def before_train(self, runner: Runner) -> None:
        self.active = sys.stderr.isatty() and get_rank() == 0
        self.started, self.first = time.monotonic(), runner.iter
        if self.active:
            for handler in runner.logger.handlers:
                if type(handler) is logging.StreamHandler:  # a log line replaces the progress line
                    handler.addFilter(self._make_room)

    def _make_room(self, record: logging.LogRecord) -> bool:
        sys.stderr.write(self.clear)
        return True

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self.active:
            sys.stderr.write(self.clear + self.line(runner, batch_idx, outputs))
            sys.stderr.flush()

    def line(self, runner: Runner, batch_idx: int, outputs: dict | None) -> str:
        """The text of the line after a step."""
        done = runner.iter + 1
        seconds = (time.monotonic() - self.started) / (done - self.first)
        left = int(seconds * (runner.max_iters - done))
        step = f'step {done}/{runner.max_iters}'
        if not in_steps(runner):
            steps = len(runner.train_dataloader)
            step = f'epoch {runner.epoch + 1}/{runner.max_epochs}  step {batch_idx + 1}/{steps}'
        loss = f'  loss {float(outputs["loss"]):.4f}' if outputs and 'loss' in outputs else ''
        return f'{step}{loss}  {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left'

    def after_train(self, runner: Runner) -> None:
        if self.active:
            sys.stderr.write(self.clear)


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Lay the weights channels last in memory, and with them every map a convolution gives.

    After they are initialised: random numbers are drawn in the order of the memory.
    """

    def before_train(self, runner: Runner) -> None:
        runner.model.to(memory_format=torch.channels_last)


@HOOKS.register_module()
class ResumableSeedHook(Hook):
    """Make random numbers depend on the seed and on how far the run is, and on nothing else.

    Then a run that was killed and resumed draws what an uninterrupted one draws: the same order,
    the same augmentations, the same dropout. mmengine restores weights, optimizer and schedule,
    but no random state. A run counted in epochs is seeded anew for every epoch, and so are its
    workers, which therefore must not be persistent. A run counted in steps is seeded for every
    step and, apart from that, for every batch of data.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        # A resumed run takes over the checkpoint's seed after its sampler was built.
        sampler = runner.train_dataloader.sampler
        if hasattr(sampler, 'seed'):
            sampler.seed = runner.seed
        if in_steps(runner):
            loop = runner.train_loop
            loop.dataloader_iterator = SeededBatches(
                loop.dataloader_iterator, loop.dataloader.num_workers, runner.seed, runner.iter
            )

    def before_train_epoch(self, runner: Runner) -> None:
        if in_steps(runner):
            return
        seed = seed_all(runner.seed, runner.epoch)
        init_fn = runner.train_dataloader.worker_init_fn
        if init_fn is not None:
            init_fn.keywords['seed'] = seed

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if in_steps(runner):
            seed_all(runner.seed, runner.iter)


class SeededBatches:
    """The batches of a run counted in steps, the random numbers of each set by its number.

    mmengine lets a resumed run go through the batches that are done. Without workers that takes
    their places in the order alone, no loading. Workers draw from random numbers of their own,
    one batch after the other, so they have to load what is done once more.

    Args:
        batches: mmengine's iterator over them.
        workers: The number of the loader's workers.
        seed: The seed of the run.
        done: How many steps the run has done.
    """

    def __init__(self, batches: Any, workers: int, seed: int, done: int) -> None:
        self.batches, self.workers, self.seed, self.done = batches, workers, seed, done
        self.step = 0

    def __iter__(self) -> SeededBatches:
        return self

    def __next__(self) -> Any:
        self.step += 1
        inner = getattr(self.batches, '_iterator', None)  # newer versions make it later
        if self.step <= self.done and not self.workers and hasattr(inner, '_next_index'):
            with suppress(StopIteration):  # an epoch ends: let mmengine begin the next
                return inner._next_index()
        seed_all(self.seed, self.step - 1, DATA)
        return next(self.batches)

    def skip_iter(self, steps: int) -> None:
        """Go through batches that are done, as newer versions of mmengine ask for it."""
        for _ in range(steps):
            next(self)


def in_steps(runner: Runner) -> bool:
    """Whether a run is counted in steps; mmengine says of such a run that it has one epoch."""
    return isinstance(runner.train_loop, IterBasedTrainLoop)


def seed_all(seed: int, *progress: int) -> int:
    """Seed what draws random numbers in this process, each rank with its own.

    Args:
        seed: The seed of the run.
        *progress: What the random numbers shall depend on besides.

    Returns:
        What was seeded with.
    """
    sequence = np.random.SeedSequence([seed, *progress, get_rank()])
    own = int(sequence.generate_state(1)[0]) % 2**31
    random.seed(own)
    np.random.seed(own)
    torch.manual_seed(own)
    return own


class FilledWeightsHook(Hook):
    """Note which weights of the model a checkpoint has filled.

    One of another shape has not: mmengine warns of it and leaves the weight as it was.
    """

    def before_run(self, runner: Runner) -> None:
        model = unwrapped(runner.model)
        self.filled, self.handles = set(), []
        for name, module in model.named_modules():
            note = partial(self._note, f'{name}.' if name else '', module)
            self.handles.append(module._register_load_state_dict_pre_hook(note))

    def _note(self, name: str, module: nn.Module, state_dict: dict, prefix: str, *_) -> None:
        for key, own in {**module._parameters, **module._buffers}.items():
            given = state_dict.get(prefix + key)
            if own is not None and getattr(given, 'shape', None) == own.shape:
                self.filled.add(name + key)

    def stop(self) -> None:
        """Note no more."""
        for handle in self.handles:
            handle.remove()


@HOOKS.register_module()
class FrozenWeightsHook(FilledWeightsHook):
    """Warn of frozen weights of a backbone that no checkpoint has filled: they stay random.

    A detector freezes its stem and first stage and trusts that they are trained. So they are not
    without a checkpoint, nor is an SCSA in them with the checkpoint of a plain backbone.
    """

    def before_train(self, runner: Runner) -> None:
        self.stop()
        random_ones = [
            name
            for name, parameter in unwrapped(runner.model).named_parameters()
            if name.startswith('backbone.')
            and not parameter.requires_grad
            and name not in self.filled
        ]
        if random_ones:
            runner.logger.warning(
                f'{len(random_ones)} frozen weights of the backbone are random, for no checkpoint '
                f'holds them: {first_few(random_ones)}; give '
                'model.backbone.init_cfg a checkpoint with them, or train them by '
                '--cfg-options model.backbone.frozen_stages=-1'
            )


@HOOKS.register_module()
class CompleteWeightsHook(FilledWeightsHook):
    """Refuse to test a model of which a checkpoint holds only a part: the rest is random.

    Counters of batches, which old checkpoints lack, and buffers that are never saved do not count.
    """

    def before_test(self, runner: Runner) -> None:
        self.stop()
        own = unwrapped(runner.model).state_dict()
        missing = [
            name
            for name in own
            if name not in self.filled and not name.endswith('num_batches_tracked')
        ]
        if missing:
            raise UserError(
                f'{runner.cfg.load_from} lacks {len(missing)} of {len(own)} weights of the model '
                '(or has them in another shape), '
                f'which would be random: {first_few(missing)}; give the checkpoint of this config, '
                'or test all the same with --allow-missing'
            )


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop a run whose loss has been NaN or infinite for some steps: it does not come back.

    Args:
        patience: So many steps in a row; a single one is what mixed precision can have.
    """

    def __init__(self, patience: int = 5) -> None:
        self.patience, self.steps = patience, 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        loss = outputs.get('loss') if isinstance(outputs, dict) else None
        if loss is None or np.isfinite(float(loss)):
            self.steps = 0
            return
        self.steps += 1
        if self.steps < self.patience:
            return
        rates = {rate for group in runner.optim_wrapper.get_lr().values() for rate in group}
        last = runner.message_hub.runtime_info.get('last_ckpt')
        raise UserError(
            f'the loss was not finite for {self.patience} steps, to step {runner.iter + 1}, at '
            f'learning rate {", ".join(f"{rate:g}" for rate in sorted(rates))}; '
            f'the last checkpoint before is {last or "not written yet"}: '
            'lower the learning rate, clip the gradients, or leave out --amp'
        )


@HOOKS.register_module()
class TerminationHook(Hook):
    """On SIGTERM, which a batch system sends before the end of the allotted time, save and stop.

    The step that runs is finished, a checkpoint written, and the process ends with a message and
    exit code 143. Where there are several processes, they agree after every step whether one of
    them has been told: else one would wait for another that has ended. A run counted in steps goes
    on from this checkpoint. One counted in epochs can go on exactly from a whole epoch alone:
    ``interrupted.pth`` keeps the weights of the moment, and the last checkpoint stays the one to
    resume from.
    """

    priority = 'LOWEST'  # when the schedule has made its step

    def before_train(self, runner: Runner) -> None:
        self.asked = False
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_) -> None:
        self.asked = True

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if not self._anybody_asked():
            return
        (saver,) = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
        if in_steps(runner):
            saver._save_checkpoint(runner)
        else:
            runner.save_checkpoint(
                saver.out_dir, 'interrupted.pth', backend_args=saver.backend_args
            )
        barrier()  # the first that ends has all others ended
        last = runner.message_hub.runtime_info.get('last_ckpt')
        runner.logger.warning(
            f'stopped by SIGTERM after step {runner.iter + 1}; '
            + (f'--resume goes on from {last}' if last else 'no epoch is done yet')
        )
        sys.exit(TERMINATED)

    def _anybody_asked(self) -> bool:
        if get_world_size() == 1:
            return self.asked
        asked = torch.tensor(float(self.asked))
        all_reduce(asked, 'max')
        return bool(asked)

    def after_train(self, runner: Runner) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.before)


def first_few(names: Sequence[str]) -> str:
    """The first three names, for a message."""
    return f'{", ".join(map(str, names[:3]))}{", …" if len(names) > 3 else ""}'


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of what distributes it."""
    return model.module if is_model_wrapper(model) else model


@HOOKS.register_module()
class ClassNamesHook(Hook):
    """Refuse class names that a COCO file does not have; mmdet would leave them out silently."""

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        self._check(runner.train_dataloader.dataset)

    def before_val(self, runner: Runner) -> None:
        self._check(runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        self._check(runner.test_dataloader.dataset)

    def _check(self, dataset) -> None:
        for inner in [*getattr(dataset, 'datasets', []), getattr(dataset, 'dataset', None)]:
            if inner is not None:
                self._check(inner)
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes', ())
        found = getattr(dataset, 'cat_ids', None)
        if found is None or len(found) == len(classes):
            return
        known = [category['name'] for category in load(dataset.ann_file)['categories']]
        unknown = [name for name in classes if name not in known]
        raise UserError(
            f'unknown class names {unknown} for {dataset.ann_file}, which has {known}; '
            'change metainfo.classes of the dataset'
        )

"""What has to agree before a step is taken: classes and outputs, loaders, what is to be trained."""

from __future__ import annotations

from typing import Any, Iterator

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from ..cli import UserError
from .hooks import first_few, unwrapped

# Parts of a model that count something else: the proposals of mmdet tell object from nothing, a
# panoptic head knows other classes, and a backbone has those of the data it was trained on.
OTHER_COUNTS = ('backbone', 'rpn_head', 'semantic_head')
MANY_LABELS = 200_000  # to read more of them would take many seconds
# What a loader without workers has.
WITHOUT_WORKERS = dict(
    persistent_workers=False, prefetch_factor=None, timeout=0, multiprocessing_context=None
)


def outputs_of(model: nn.Module) -> dict[str, int]:
    """The number of classes that each head of a model, and what goes with it, was built for.

    As mmpretrain and mmdet do it in their hooks, this trusts the attribute ``num_classes``. What
    does not have it, such as a head of another project, is not in the answer.

    Args:
        model: A model of mmpretrain, mmdet, mmseg or another project; for test-time augmentation
            the model inside.

    Returns:
        The number by the module's name, such as ``roi_head.bbox_head.0``.
    """
    found = {}
    for name, module in model.named_modules():
        number = getattr(module, 'num_classes', None)
        if not name or not isinstance(number, int) or number < 1:
            continue  # a segmentor copies the number of its head; -1 is 'none' in backbones
        if not set(name.split('.')) & set(OTHER_COUNTS):
            found[name] = number
    return found


@HOOKS.register_module()
class AgreementHook(Hook):
    """Refuse, before a step is taken, what would fail or be useless after it.

    That is: data with another number of classes than the model has outputs, labels beyond them,
    a loader without a batch, an optimizer that changes nothing. mmpretrain and mmdet have hooks
    for the first (mmseg has none); theirs come at the first validation, as an assertion, and do
    not say which key to set.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        check_rates(runner.optim_wrapper)
        self._check(runner, runner.train_dataloader, 'train_dataloader')
        if runner.val_loop is not None:
            check_batches(runner.val_dataloader, 'val_dataloader')
            self._check(runner, runner.val_dataloader, 'val_dataloader')

    def before_test(self, runner: Runner) -> None:
        check_batches(runner.test_dataloader, 'test_dataloader')
        self._check(runner, runner.test_dataloader, 'test_dataloader')

    @staticmethod
    def _check(runner: Runner, dataloader: Any, key: str) -> None:
        check_classes(unwrapped(runner.model), dataloader.dataset, key, runner.cfg)


def check_classes(model: nn.Module, dataset: Any, loader: str, cfg: Config) -> None:
    """Compares the classes of data with the outputs of a model, where both can be known.

    Args:
        model: The model.
        dataset: The data; without ``metainfo['classes']`` its labels are looked at, if they can be.
        loader: The loader's key in the config, for the message.
        cfg: The config, to find the key to set.

    Raises:
        UserError: They are not the same number.
    """
    if 'module' in cfg.model and hasattr(model, 'module'):  # test-time augmentation
        model = model.module
    outputs = outputs_of(model)
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if isinstance(classes, str):
        raise UserError(
            f'the classes of {loader}.dataset are the text {classes!r}, and should be a list of '
            f'names; of a single class, write metainfo=dict(classes=({classes!r},))'
        )
    if classes is None:
        _check_labels(outputs, dataset, loader, cfg)
        return
    wrong = {
        name: number
        for name, number in outputs.items()
        if number != len(classes) and not _binary(model.get_submodule(name), len(classes))
    }
    if wrong:
        keys = [_key(cfg, name) for name in wrong]
        first = next(iter(wrong))
        raise UserError(
            f'{loader}.dataset has {len(classes)} classes ({first_few(classes)}), but {keys[0]} is '
            f'{wrong[first]}: set ' + ' '.join(f'{key}={len(classes)}' for key in keys) + ', '
            f'or change the classes of {loader}.dataset'
        )


def _check_labels(outputs: dict[str, int], dataset: Any, loader: str, cfg: Config) -> None:
    """Looks at the labels of a classifier's data that have no names."""
    if not outputs or not hasattr(dataset, 'get_gt_labels') or len(dataset) > MANY_LABELS:
        return
    labels = dataset.get_gt_labels()
    if getattr(labels, 'ndim', 0) != 1 or labels.dtype.kind not in 'iu' or not len(labels):
        return  # several labels an image
    wrong = [name for name, number in outputs.items() if labels.max() >= number]
    if wrong or labels.min() < 0:
        keys = [_key(cfg, name) for name in wrong]
        mend = f'set {" ".join(f"{key}={labels.max() + 1}" for key in keys)}, or ' if keys else ''
        instead = f', but {keys[0]} is {outputs[wrong[0]]}' if keys else ''
        raise UserError(
            f'{loader}.dataset has labels from {labels.min()} to {labels.max()}{instead}; they '
            f'count from 0: {mend}change the annotation file'
        )


def _binary(head: nn.Module, classes: int) -> bool:
    """Whether one output tells two classes apart, as mmseg has it."""
    return classes == 2 and getattr(head, 'out_channels', None) == 1


def _key(cfg: Config, name: str) -> str:
    """The key in a config for the classes of a module; its name in words, where there is none."""
    node = cfg.model.get('module', cfg.model)
    if name == 'data_preprocessor' and 'data_preprocessor' not in node:
        return f'{name}.num_classes'
    path = ['model']
    for part in name.split('.'):
        if part.endswith('_module') and part not in node:  # mmpretrain keeps `loss` in loss_module
            part = part[: -len('_module')]
        if isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, dict) and part.isdigit():
            continue  # one dict for all stages of a cascade
        else:
            return f'num_classes of the model\'s part "{name}"'
        path.append(part)
    return '.'.join([*path, 'num_classes'])


def check_loaders(cfg: Config, loaders: list[str]) -> None:
    """Refuses settings with which no loader can be built, or no step be taken.

    Args:
        cfg: The config.
        loaders: The dataloaders that the run will use, such as ``['train_dataloader']``.

    Raises:
        UserError: naming each key, what it is and what it can be.
    """
    wrong = [line for key in loaders for line in _loader_faults(key, cfg.get(key) or {})]
    if 'train_dataloader' in loaders:
        at_least_one = [f'train_cfg.{key}' for key in ('max_epochs', 'max_iters', 'val_interval')]
        for key in [*at_least_one, 'optim_wrapper.accumulative_counts']:
            section, name = key.split('.')
            value = (cfg.get(section) or {}).get(name)
            is_whole_float = isinstance(value, float) and value.is_integer()  # 1e5 steps are fine
            wrong += _whole(key, int(value) if is_whole_float else value, 1)
    if wrong:
        raise UserError(' | '.join(wrong))


def _loader_faults(key: str, loader: dict) -> Iterator[str]:
    yield from _whole(f'{key}.batch_size', loader.get('batch_size'), 1)
    workers = loader.get('num_workers', 0)
    yield from _whole(f'{key}.num_workers', workers, 0)
    yield from _whole(f'{key}.prefetch_factor', loader.get('prefetch_factor'), 1)
    if workers == 0:
        for name, instead in WITHOUT_WORKERS.items():
            if loader.get(name):
                yield (
                    f'{key}.{name} is {loader[name]}, which needs workers, and '
                    f'{key}.num_workers is 0: set {key}.{name}={instead}, or some workers'
                )


def _whole(key: str, value: Any, least: int) -> list[str]:
    """A line if a value is set, and is no whole number from ``least`` on."""
    if value is None or (isinstance(value, int) and value >= least):
        return []
    return [f'{key} is {value!r}: set a whole number, {least} or more']


def check_batches(dataloader: Any, key: str, by_epoch: bool = True) -> None:
    """Refuses a loader that gives no batch.

    Args:
        dataloader: The loader.
        key: Its key in the config.
        by_epoch: Whether an epoch ends with the loader; else it begins anew, and ``drop_last``
            drops what comes again.

    Raises:
        UserError: There are no images, or fewer than the one batch that is not dropped.
    """
    try:
        images, batches = len(dataloader.dataset), len(dataloader)
    except TypeError:  # data without an end
        return
    if not images:
        raise UserError(
            f'{key}.dataset has no images: look at its ann_file, data_prefix and filter_cfg'
        )
    if by_epoch and not batches:
        raise UserError(
            f'{key} gives no batch: it has {images} images, fewer than a batch, and drop_last '
            f'leaves them out; set a smaller {key}.batch_size, or {key}.drop_last=False'
        )


def check_before(runner: Any) -> None:
    """Refuses what has to be seen before mmengine builds optimizer and schedule.

    Raises:
        UserError: The training data give no batch, or no parameter is to be trained.
    """
    if not isinstance(runner, Runner):  # others build it all at once
        return
    loop = runner.train_loop
    check_batches(loop.dataloader, 'train_dataloader', isinstance(loop, EpochBasedTrainLoop))
    trained = [parameter.requires_grad for parameter in runner.model.parameters()]
    if not any(trained):
        raise UserError(
            f'the optimizer has nothing to train: all {len(trained)} parameters of the model are '
            'frozen; set a lower model.backbone.frozen_stages, or train the head'
        )


def check_rates(optim_wrapper: Any) -> None:
    """Refuses an optimizer whose learning rate is zero for all that could be trained.

    Raises:
        UserError: It is.
    """
    groups = optim_wrapper.param_groups
    if isinstance(groups, dict):  # one for each of several optimizers
        groups = [group for part in groups.values() for group in part]
    # A schedule may start at zero; what it scales is kept beside it.
    rates = [
        group.get('initial_lr', group['lr'])
        for group in groups
        if any(parameter.requires_grad for parameter in group['params'])
    ]
    if not any(rates):
        raise UserError(
            'the optimizer has nothing to train: the learning rate of all '
            f'{len(rates)} groups of parameters is 0; set optim_wrapper.optimizer.lr, or look at '
            'lr_mult in optim_wrapper.paramwise_cfg'
        )

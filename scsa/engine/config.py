"""Read a config and find, before anything is built, what it asks for and this machine lacks."""

from __future__ import annotations

import argparse
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

import torch
import torch.distributed
from mmengine.config import Config, DictAction
from mmengine.device import is_cuda_available, is_mlu_available, is_npu_available
from mmengine.optim import OptimWrapper

from ..backbones.checkpoint import CheckpointMismatch
from ..cli import UserError, existing
from .checkpoints import read_safely
from .safe_load import TRUST

DATA_HELP = 'docs/datasets.md shows the layout'
RUNS = ('train', 'val', 'test')
# What starts the processes of each launcher, and the variable by which that is seen.
STARTED_BY = {
    'pytorch': ('RANK', 'torchrun (tools/dist_train.sh and dist_test.sh do it)'),
    'slurm': ('SLURM_PROCID', 'srun (tools/slurm_train.sh and slurm_test.sh do it)'),
    'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK', 'mpirun'),
}


class Overrides(DictAction):
    """``KEY=VALUE …``, refusing a word without ``=``, over which the parent stumbles."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for value in values:
            if '=' not in value:
                raise UserError(
                    f'{option_string} {value}: give KEY=VALUE; the config and the checkpoint go '
                    'before the options'
                )
        super().__call__(parser, namespace, values, option_string)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """A config, and settings in place of its own."""
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Overrides,
        metavar='KEY=VALUE',
        help='override settings of the config: model.backbone.depth=101 …',
    )


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that training and testing share."""
    add_config_arguments(parser)
    parser.add_argument('--work-dir', help='where logs and checkpoints go [work_dirs/CONFIG]')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='let checkpoint files run what they ask for: only for files of your own',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # What torch.distributed.launch passes to each process; torchrun sets LOCAL_RANK instead.
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(args: argparse.Namespace) -> Config:
    """Read ``args.config``, merge ``--cfg-options``, settle work dir and launcher.

    Raises:
        UserError: if the config, a base or an import of it is missing or cannot be read.
    """
    read_safely()
    if getattr(args, 'trust_checkpoint', False):
        os.environ[TRUST] = '1'  # for loader processes too
    path = existing(args.config, 'config', 'configs/ holds those of this project')
    try:
        cfg = Config.fromfile(path)
        if args.cfg_options:
            if 'data_root' in args.cfg_options:
                move_data(cfg, args.cfg_options['data_root'])
            cfg.merge_from_dict(args.cfg_options)
    except UserError:
        raise
    except Exception as error:  # a config is a program: it can fail in any way
        raise UserError(f'config {path} cannot be read: {type(error).__name__}: {error}') from error
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        cfg.work_dir = str(Path('work_dirs') / path.stem)
    set_launcher(cfg, args)
    set_loader_defaults(cfg)
    return cfg


def move_data(cfg: Config, root: str) -> None:
    """Let every loader and evaluator read below ``root`` what they read below the data root.

    Mmengine has put the variable's old value into them when it read the config, so to change the
    variable alone does nothing.

    Raises:
        UserError: The data are below several roots, or not below the config's variable.
    """
    parts = [f'{run}_{what}' for run in RUNS for what in ('dataloader', 'evaluator')]
    found = {
        f'{key}.data_root': str(dataset['data_root']).rstrip('/')
        for part in parts
        for key, dataset in innermost_datasets(cfg.get(part), part)
        if dataset.get('data_root')
    }
    roots = set(found.values())
    old = str(cfg.get('data_root') or (roots.pop() if len(roots) == 1 else '')).rstrip('/')
    if not old or not all(_below(path, old) for path in found.values()):
        keys = ', '.join(found) or 'the paths of its dataloaders'
        raise UserError(f'data_root={root} cannot stand for all data of this config; set {keys}')
    for part in parts:
        if cfg.get(part):
            cfg[part] = _moved(cfg[part], old, str(root).rstrip('/') or '/')


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(root + '/')


def _moved(node: Any, old: str, new: str) -> Any:
    """A copy of ``node`` in which each path below one folder is below another."""
    if isinstance(node, dict):
        return {key: _moved(value, old, new) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(_moved(value, old, new) for value in node)
    if isinstance(node, str) and _below(node, old):
        return new + node[len(old) :]
    return node


def set_loader_defaults(cfg: Config) -> None:
    """What mmpretrain's own tools, and so the published runs, add to every dataloader."""
    if cfg.get('default_scope') != 'mmpretrain':
        return
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(name):
            cfg[name].setdefault('collate_fn', dict(type='default_collate'))
            cfg[name].setdefault('pin_memory', torch.cuda.is_available())


def set_launcher(cfg: Config, args: argparse.Namespace) -> None:
    """Let a distributed run without GPUs talk over gloo; mmengine can only start it on GPUs."""
    cfg.launcher = args.launcher
    if args.launcher == 'none':
        return
    on_cpu = not (torch.cuda.is_available() or is_npu_available())
    if on_cpu and args.launcher != 'pytorch':
        raise UserError(
            f'--launcher {args.launcher} needs GPUs and there are none; on CPUs use torchrun with '
            '--launcher pytorch'
        )
    variable, starter = STARTED_BY[args.launcher]
    if variable not in os.environ:
        raise UserError(f'--launcher {args.launcher} needs processes started by {starter}')
    if not on_cpu:
        return
    torch.distributed.init_process_group('gloo')
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        device_ids=None,  # mmengine's default is a GPU
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )


def leave_optimizer_out(cfg: Config) -> None:
    """Let ``compile=True`` compile forward and backward pass, not the optimizer's step.

    mmengine compiles a training step as a whole, and torch 2.1 cannot trace its own SGD.
    """
    if cfg.get('compile'):
        import torch._dynamo  # takes seconds

        OptimWrapper.update_params = torch._dynamo.disable(OptimWrapper.update_params)


def check_amp(cfg: Config, flag: bool) -> None:
    """Refuse mixed precision where no device does it.

    Raises:
        UserError: if ``optim_wrapper`` is an ``AmpOptimWrapper`` and there is no accelerator.
    """
    wrapper = cfg.get('optim_wrapper', {})
    if 'Amp' not in str(wrapper.get('type', '')):
        wrapper.pop('loss_scale', None)  # of an AMP config that --cfg-options turned into float32
        return
    if is_cuda_available() or is_npu_available() or is_mlu_available():
        return
    mend = (
        'leave out --amp'
        if flag
        else 'the config asks for it; add --cfg-options optim_wrapper.type=OptimWrapper'
    )
    raise UserError(f'mixed precision needs a GPU and there is none; {mend}')


def batch_note(cfg: Config, processes: int) -> str | None:
    """One line if a step takes another number of images than the learning rate is for."""
    scale = cfg.get('auto_scale_lr') or {}
    base = scale.get('base_batch_size')
    if not base or scale.get('enable') or not cfg.train_dataloader.get('batch_size'):
        return None
    counts = cfg.optim_wrapper.get('accumulative_counts', 1)
    images = cfg.train_dataloader.batch_size * processes * counts
    if images == base:
        return None
    return (
        f'a step takes {images} images, but the learning rate is for {base}: '
        'add --auto-scale-lr to scale it'
    )


def check_files(cfg: Config, loaders: list[str]) -> None:
    """Look for every local file and folder that the config names.

    Args:
        cfg: The config.
        loaders: The dataloaders that the run will use, such as ``['train_dataloader']``.

    Raises:
        UserError: naming all that are missing, each with the key to change.
    """
    missing = {}

    def require(path: str | None, what: str, how: str) -> bool:
        """Note a path that is missing, once; False if it is."""
        if path and '://' not in str(path) and not Path(path).exists():
            missing.setdefault(str(path), f'{what} not found: {path}; {how}')
            return False
        return True

    for loader in loaders:
        for key, dataset in innermost_datasets(cfg.get(loader), loader):
            _check_dataset(key, dataset, require)
        name = loader.replace('dataloader', 'evaluator')
        evaluators = cfg.get(name) or []
        several = isinstance(evaluators, (list, tuple))
        for i, evaluator in enumerate(evaluators if several else [evaluators]):
            key = f'{name}.{i}.ann_file' if several else f'{name}.ann_file'
            require(evaluator.get('ann_file'), 'annotation file', f'set {key}; {DATA_HELP}')
    for key, checkpoint in _pretrained(cfg.model, 'model'):
        require(checkpoint, 'pretrained weights', _weights_help(key, str(checkpoint)))
    require(cfg.get('load_from'), 'checkpoint', 'set load_from')
    if missing:
        raise UserError(' | '.join(missing.values()))


def _weights_help(key: str, checkpoint: str) -> str:
    """How to get weights: by the config they are called after, where one of ours is."""
    path = Path(checkpoint)
    name = path.stem if path.parent.name == 'checkpoints' else path.parent.name
    for folder in ('classification', 'quickstart'):
        if (Path('configs') / folder / f'{name}.py').exists():
            made = f'python tools/train.py configs/{folder}/{name}.py'
            return f'set {key}.checkpoint, or make the file: {made}, then copy its last checkpoint'
    return f'set {key}.checkpoint to the checkpoint of an ImageNet run'


def innermost_datasets(node: Any, key: str) -> Iterator[tuple[str, dict]]:
    """Yield every innermost dataset dict below a dataloader, with its key."""
    if not isinstance(node, dict):
        return
    inner = [(f'{key}.dataset', node['dataset'])] if 'dataset' in node else []
    inner += [(f'{key}.datasets.{i}', d) for i, d in enumerate(node.get('datasets', []))]
    if not inner and 'dataloader' not in key.rsplit('.', 1)[-1]:
        yield key, node
    for name, child in inner:
        yield from innermost_datasets(child, name)


def _check_dataset(key: str, dataset: dict, require: Callable[[str, str, str], bool]) -> None:
    root = Path(dataset.get('data_root') or '')
    if '://' in str(dataset.get('data_root')):
        return
    if not require(str(root), 'data root', f'set {key}.data_root; {DATA_HELP}'):
        return
    if dataset.get('ann_file'):
        require(str(root / dataset['ann_file']), 'annotation file', f'{key}: {DATA_HELP}')
    prefix = dataset.get('data_prefix') or {}
    folders = list(prefix.values()) if isinstance(prefix, dict) else [prefix]
    if dataset.get('type') == 'ImageNet' and not prefix:
        folders = [dataset.get('split')]
    for folder in folders:
        if folder:
            require(str(root / folder), 'data folder', f'{key}: {DATA_HELP}')


def _pretrained(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield every checkpoint that an ``init_cfg`` below a node loads, with its key."""
    if isinstance(node, dict):
        if node.get('type') == 'Pretrained':
            yield key, node.get('checkpoint')
        for name, child in node.items():
            yield from _pretrained(child, f'{key}.{name}')
    elif isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from _pretrained(child, f'{key}.{i}')


@contextmanager
def explained(*build_errors: type[Exception]) -> Iterator[None]:
    """Turn what mmengine raises over a wrong config into one line.

    That is: a name that no registry knows, and a checkpoint that does not fit. Everything else
    keeps its traceback.

    Args:
        *build_errors: Further exceptions that, here, mean arguments that some class refuses.
    """
    try:
        yield
    except (UserError, CheckpointMismatch) as error:
        raise UserError(str(error)) from error
    except Exception as error:
        text = str(error.args[0]) if error.args else ''
        unknown = re.search(r"'?([\w.]+)'? is not in the (\S+) registry", text)
        if unknown:
            raise UserError(
                f'unknown class name {unknown[1]!r} in the config: it is not in the '
                f'{unknown[2]} registry; check its spelling, default_scope and custom_imports'
            ) from error
        if "doesn't match the number of specified classes" in text:  # mmpretrain's folders
            raise UserError(f'the data do not fit the config: {text}') from error
        if 'SyncBatchNorm layers only work with GPU' in text:  # several processes
            raise UserError(
                'SyncBN shares statistics between processes, which needs GPUs, and there are none; '
                'set the type of every norm_cfg to BN, or train in one process'
            ) from error
        if isinstance(error, build_errors):
            raise UserError(f'the config does not build: {error}') from error
        raise

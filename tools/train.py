"""Train any config of this project, or one that uses it: classification, detection, segmentation.

python tools/train.py configs/classification/resnet50_1xb128_in1k_scsa.py --amp
"""

import argparse
from pathlib import Path

from scsa.cli import UserError, existing, run


def parse_args() -> argparse.Namespace:
    from scsa.engine.config import add_common_arguments

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from a checkpoint; without one, from the last in the work dir, if any',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument(
        '--channels-last',
        action='store_true',
        help='maps and weights as convolutions are fastest on: the same numbers, to rounding',
    )
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate while training')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate by the actual batch over the config's base batch size",
    )
    parser.add_argument(
        '--leave-out',
        metavar='FILE',
        help='do not train on the images of a list, as tools/data/check.py --fix-list writes it',
    )
    parser.add_argument(
        '--skip-bad',
        type=int,
        metavar='N',
        help='go on without up to N files that cannot be read; the first one ends the run [0]',
    )
    args = parser.parse_args()
    if args.skip_bad is not None and args.skip_bad < 1:
        raise UserError(f'--skip-bad {args.skip_bad}: give the number of files, 1 or more')
    return args


def main() -> None:
    args = parse_args()
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    from scsa.engine.agreement import AgreementHook, check_before, check_loaders
    from scsa.engine.checkpoints import keep_seed, last_whole_checkpoint, write_whole
    from scsa.engine.config import (
        batch_note,
        check_amp,
        check_files,
        explained,
        leave_optimizer_out,
        load_config,
    )
    from scsa.engine.hooks import (
        ChannelsLastHook,
        ClassNamesHook,
        FiniteLossHook,
        FrozenWeightsHook,
        ProgressLineHook,
        ResumableSeedHook,
        TerminationHook,
    )
    from scsa.engine.reading import SkippedFiles, SkippedFilesHook, read_carefully, read_paths

    cfg = load_config(args)
    write_whole(cfg)
    left_out = []
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    check_amp(cfg, args.amp)
    if args.resume:
        if args.resume == 'auto':
            checkpoint, left_out = last_whole_checkpoint(cfg.work_dir)
        else:
            checkpoint = existing(args.resume, 'checkpoint', 'give another to --resume')
        cfg.resume = checkpoint is not None
        if checkpoint is not None:  # else what the config itself says to load stays
            cfg.load_from = str(checkpoint)
            keep_seed(cfg)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise UserError(
                '--auto-scale-lr needs auto_scale_lr.base_batch_size in the config, which has '
                'none; keep the batch of the recipe by '
                '--cfg-options optim_wrapper.accumulative_counts=N, and see docs/segmentation.md'
            )
        cfg.auto_scale_lr.enable = True
    loaders = ['train_dataloader', 'val_dataloader']
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        loaders.remove('val_dataloader')
    check_files(cfg, loaders)
    not_trained_on = read_paths(args.leave_out) if args.leave_out else frozenset()
    leave_optimizer_out(cfg)
    cfg.train_dataloader.persistent_workers = False  # ResumableSeedHook seeds new ones
    check_loaders(cfg, loaders)

    with explained(TypeError, ValueError):
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    skipped = None
    if args.skip_bad:
        skipped = SkippedFiles(Path(runner.log_dir) / 'skipped_files.txt', args.skip_bad)
        runner.register_hook(SkippedFilesHook(skipped))
    read_carefully(runner, cfg, skipped, not_trained_on)
    note = batch_note(cfg, runner.world_size)
    for line in [*(f'not resumed from: {line}' for line in left_out), *filter(None, [note])]:
        runner.logger.warning(line)
    with explained():
        check_before(runner)
        for hook in (
            ClassNamesHook,
            AgreementHook,
            FrozenWeightsHook,
            ResumableSeedHook,
            ProgressLineHook,
            FiniteLossHook,
            TerminationHook,
        ):
            runner.register_hook(hook())
        if args.channels_last:
            runner.register_hook(ChannelsLastHook())
        runner.train()


if __name__ == '__main__':
    run(main)

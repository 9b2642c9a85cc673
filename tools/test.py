"""Test a checkpoint: classification, detection, segmentation.

python tools/test.py configs/classification/resnet50_1xb128_in1k_scsa.py CHECKPOINT
"""

import argparse
from pathlib import Path

from scsa.cli import UserError, existing, run


def parse_args() -> argparse.Namespace:
    from scsa.engine.config import add_common_arguments

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', help='write predictions to FILE.pkl, or metrics to FILE.json')
    parser.add_argument('--show-dir', help='draw predictions on images, into this folder')
    parser.add_argument(
        '--allow-missing',
        action='store_true',
        help='test even if the checkpoint holds only a part of the weights',
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mmengine.dist import is_main_process
    from mmengine.evaluator import DumpResults
    from mmengine.fileio import dump
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    from scsa.engine.agreement import AgreementHook, check_loaders
    from scsa.engine.config import check_files, explained, load_config
    from scsa.engine.hooks import ClassNamesHook, CompleteWeightsHook
    from scsa.engine.reading import read_carefully
    from scsa.engine.testing import draw_predictions, use_tta

    checkpoint = existing(args.checkpoint, 'checkpoint', 'train one with tools/train.py')
    if args.out and not args.out.endswith(('.pkl', '.pickle', '.json')):
        raise UserError(f'--out {args.out}: give a .pkl for predictions or a .json for metrics')
    cfg = load_config(args)
    cfg.load_from = str(checkpoint)
    check_files(cfg, ['test_dataloader'])
    check_loaders(cfg, ['test_dataloader'])
    if args.tta:
        use_tta(cfg)
    if args.show_dir:
        draw_predictions(cfg, args.show_dir)

    with explained(TypeError, ValueError):
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    read_carefully(runner, cfg)
    with explained():
        runner.register_hook(ClassNamesHook())
        runner.register_hook(AgreementHook())
        if not args.allow_missing:
            runner.register_hook(CompleteWeightsHook())
        if args.out and not args.out.endswith('.json'):
            runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
        metrics = runner.test()
    if args.out and args.out.endswith('.json') and is_main_process():
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        dump(metrics, args.out, indent=2)


if __name__ == '__main__':
    run(main)

"""Draw truth and prediction of a detection or segmentation config on its first test images."""

import argparse
from pathlib import Path

from scsa.cli import existing, run


def main() -> None:
    from scsa.engine.config import add_common_arguments, check_files, load_config

    parser = argparse.ArgumentParser(description=__doc__)
    add_common_arguments(parser)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('out', type=Path, help='the picture')
    parser.add_argument('--count', type=int, default=6, help='images (%(default)s)')
    args = parser.parse_args()
    checkpoint = existing(args.checkpoint, 'checkpoint', 'train one with tools/train.py')
    cfg = load_config(args)
    cfg.model.backbone.pop('init_cfg', None)  # the checkpoint has the weights
    check_files(cfg, ['test_dataloader'])

    from scsa.analysis.scene_pictures import draw

    draw(cfg, checkpoint, args.out, args.count)
    print(args.out)


if __name__ == '__main__':
    run(main)

"""Predict for images: draws what a model finds in each, and writes all predictions as one JSON.

python tools/infer.py configs/quickstart/resnet18_digits_scsa.py \
    work_dirs/resnet18_digits_scsa/epoch_10.pth data/digits/val/3

after `make demo`. Classification, detection and segmentation alike; docs/visualization.md shows
what the JSON holds.
"""

import argparse
from pathlib import Path

from scsa.cli import run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='its weights')
    parser.add_argument('images', help='an image, a folder, or a glob in quotes')
    parser.add_argument(
        '--out-dir', type=Path, default=Path('work_dirs/infer'), help='[%(default)s]'
    )
    parser.add_argument('--device', help="cpu, cuda:0 … [the machine's accelerator, else cpu]")
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='least score of a box to draw it [%(default)s]'
    )
    args = parser.parse_args()

    from scsa.visualization.images import Images
    from scsa.visualization.infer import write
    from scsa.visualization.models import load

    images = Images(args.images)
    model = load('model', args.config, args.checkpoint, args.device)
    path = write(model, images, args.out_dir, args.score_thr)
    print(f'{path}: {images.summary()}')


if __name__ == '__main__':
    run(main)

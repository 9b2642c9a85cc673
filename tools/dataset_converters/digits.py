"""Write scikit-learn's handwritten digits as an ImageNet-style folder (1,437 train, 360 val).

python tools/dataset_converters/digits.py [--hard --out data/hard_digits]
"""

import argparse
from pathlib import Path

from scsa.cli import UserError, run
from scsa.datasets.digits import LEAST_HARD_SIZE, write_digits, write_hard_digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', default='data/digits', help='folder to write [%(default)s]')
    parser.add_argument('--size', type=int, default=56, help='side of the images [%(default)s]')
    parser.add_argument(
        '--hard',
        action='store_true',
        help='few labels; off-centre, at many scales, among clutter, under noise and a bar',
    )
    parser.add_argument('--seed', type=int, help='of what --hard draws [0]')
    args = parser.parse_args()
    if args.size < 8:
        raise UserError(f'--size {args.size}: the scans have 8 pixels a side, give 8 or more')
    if args.seed is not None and not args.hard:
        raise UserError('--seed: without --hard nothing is drawn; add --hard or leave it out')
    if args.hard:
        if args.size < LEAST_HARD_SIZE:
            raise UserError(f'--size {args.size}: with --hard give {LEAST_HARD_SIZE} or more')
        counts = write_hard_digits(Path(args.out), args.size, args.seed or 0)
    else:
        counts = write_digits(Path(args.out), args.size)
    print(f'{args.out}: {counts["train"]} images in train, {counts["val"]} in val')


if __name__ == '__main__':
    run(main)

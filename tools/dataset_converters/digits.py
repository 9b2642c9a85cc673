"""Write scikit-learn's handwritten digits as an ImageNet-style folder (1,437 train, 360 val)."""

import argparse
from pathlib import Path

from scsa.cli import UserError, run
from scsa.datasets.digits import write_digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', default='data/digits', help='folder to write [%(default)s]')
    parser.add_argument('--size', type=int, default=56, help='side of the images [%(default)s]')
    args = parser.parse_args()
    if args.size < 8:
        raise UserError(f'--size {args.size}: the scans have 8 pixels a side, give 8 or more')
    counts = write_digits(Path(args.out), args.size)
    print(f'{args.out}: {counts["train"]} images in train, {counts["val"]} in val')


if __name__ == '__main__':
    run(main)

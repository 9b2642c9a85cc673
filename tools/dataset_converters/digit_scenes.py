"""Makes the embedded data set, digits on photographs, in COCO and ADE20K form."""

import argparse
from pathlib import Path

from scsa.cli import run
from scsa.datasets.digit_scenes import write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default='data/digit_scenes', help='(%(default)s)')
    parser.add_argument('--train', type=int, default=800, help='scenes (%(default)s)')
    parser.add_argument('--val', type=int, default=200, help='scenes (%(default)s)')
    parser.add_argument('--size', type=int, default=160, help='pixels (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='(%(default)s)')
    args = parser.parse_args()
    write(args.out, {'train': args.train, 'val': args.val}, args.size, args.seed)


if __name__ == '__main__':
    run(main)

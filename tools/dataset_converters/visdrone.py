"""Converts VisDrone2019-DET to COCO JSON; docs/datasets.md has the layout and the rules."""

import argparse
from pathlib import Path

from scsa.cli import run
from scsa.datasets.visdrone import SPLITS, convert


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', nargs='?', type=Path, default='data/visdrone', help='(%(default)s)')
    parser.add_argument('--out', type=Path, help='folder of the JSON files (ROOT/annotations)')
    parser.add_argument('--splits', nargs='+', choices=SPLITS, default=SPLITS)
    parser.add_argument('--strict', action='store_true', help='stop at the first bad record')
    args = parser.parse_args()
    convert(args.root, args.out or args.root / 'annotations', args.splits, args.strict)


if __name__ == '__main__':
    run(main)

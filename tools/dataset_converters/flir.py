"""Converts thermal FLIR ADAS v2 to COCO JSON; docs/datasets.md has the layout and the rules."""

import argparse
from pathlib import Path

from scsa.cli import run
from scsa.datasets.flir import CLASSES, FOLDERS, convert


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', nargs='?', type=Path, default='data/flir', help='(%(default)s)')
    parser.add_argument('--out', type=Path, help='folder of the JSON files (ROOT/annotations)')
    parser.add_argument('--splits', nargs='+', choices=list(FOLDERS), default=list(FOLDERS))
    parser.add_argument(
        '--classes', nargs='+', default=CLASSES, help=f'names to keep ({", ".join(CLASSES)})'
    )
    parser.add_argument('--strict', action='store_true', help='stop at the first bad record')
    args = parser.parse_args()
    out = args.out or args.root / 'annotations'
    convert(args.root, out, args.splits, args.classes, args.strict)


if __name__ == '__main__':
    run(main)

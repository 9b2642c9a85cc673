"""Converts ExDark to COCO JSON; docs/datasets.md has the layout and the rules."""

import argparse
from pathlib import Path

from scsa.cli import run
from scsa.datasets.exdark import convert


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', nargs='?', type=Path, default='data/exdark', help='(%(default)s)')
    parser.add_argument('--out', type=Path, help='folder of the JSON files (ROOT/annotations)')
    parser.add_argument('--split-file', type=Path, help='(ROOT/imageclasslist.txt)')
    parser.add_argument('--strict', action='store_true', help='stop at the first bad record')
    args = parser.parse_args()
    out = args.out or args.root / 'annotations'
    convert(args.root, out, args.split_file or args.root / 'imageclasslist.txt', args.strict)


if __name__ == '__main__':
    run(main)

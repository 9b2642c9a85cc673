"""Writes the table of configs in docs/detection.md and docs/segmentation.md from the files.

python tools/analysis/config_table.py docs/detection.md docs/segmentation.md
"""

import argparse
from pathlib import Path

from scsa.cli import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('pages', nargs='+', type=Path, help='pages with a table to renew')
    args = parser.parse_args()
    from scsa.analysis.config_table import renew

    for page in args.pages:
        renew(page)


if __name__ == '__main__':
    run(main)

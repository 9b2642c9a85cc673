"""Print top-1 of the digits runs and draw their curves and predictions into the work dirs."""

import argparse
from pathlib import Path

from scsa.analysis.quickstart import report
from scsa.cli import existing, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dirs', nargs='+', help='work dirs that were trained and tested in')
    args = parser.parse_args()
    print(report([existing(Path(d), 'work dir', 'run make demo') for d in args.work_dirs]))


if __name__ == '__main__':
    run(main)

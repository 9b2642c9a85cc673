"""``python -m scsa doctor [CONFIG ...]``: see :mod:`scsa.doctor`."""

import argparse
import sys

from .doctor import diagnose


def main() -> int:
    parser = argparse.ArgumentParser(prog='python -m scsa')
    commands = parser.add_subparsers(dest='command', required=True)
    doctor = commands.add_parser('doctor', help='what is installed, what clashes, and the mend')
    doctor.add_argument('configs', nargs='*', help='configs that are to run here')
    return diagnose(parser.parse_args().configs)


if __name__ == '__main__':
    sys.exit(main())

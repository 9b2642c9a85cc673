"""Finds what is wrong with the images, labels and boxes of a config before it is trained on.

python tools/data/check.py CONFIG [--jobs 8] [--fix-list bad.txt] [--json found.json]
"""

import argparse
import sys
from pathlib import Path

from scsa.cli import UserError, run


def parse_args() -> argparse.Namespace:
    from scsa.datasets.check import HINTS, KINDS, LOADERS, usable_cores
    from scsa.engine.config import add_config_arguments

    kinds = [f'  {kind:<14} {text}' for kind, text in KINDS.items()]
    hints = [f'  {kind:<14} {text}' for kind, text in HINTS.items()]
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='\n'.join(['faults:', *kinds, 'hints, which --strict counts as faults:', *hints]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    parser.add_argument(
        '--fix-list',
        metavar='FILE',
        help='write the images to leave out, for tools/train.py --leave-out',
    )
    parser.add_argument('--json', metavar='FILE', help='write all that is found')
    parser.add_argument(
        '--ignore', nargs='+', default=[], choices=[*KINDS, *HINTS], metavar='KIND',
        help='count these, and let them pass',
    )  # fmt: skip
    parser.add_argument('--strict', action='store_true', help='hints are faults')
    parser.add_argument('--jobs', type=int, default=usable_cores(), help='processes [all cores]')
    parser.set_defaults(work_dir=None, launcher='none', loaders=LOADERS)
    args = parser.parse_args()
    if args.jobs < 1:
        raise UserError(f'--jobs {args.jobs}: give the number of processes, 1 or more')
    return args


def main() -> None:
    args = parse_args()
    from mmengine.fileio import dump

    import scsa  # noqa: F401, configs without SCSA do not import it
    from scsa.datasets.check import HINTS, check, print_line, to_leave_out
    from scsa.engine.config import explained, innermost_datasets, load_config

    cfg = load_config(args)
    datasets = [pair for key in args.loaders for pair in innermost_datasets(cfg.get(key), key)]
    if not datasets:
        raise UserError(f'{args.config} has no data set: it sets none of {", ".join(args.loaders)}')
    uncounted = [*args.ignore, *(() if args.strict else HINTS)]
    with explained():
        found = check(cfg, datasets, args.jobs, uncounted, print_line)
    print('\n'.join(checked.summary() for checked in found))
    if args.json:
        dump([checked.as_dict() for checked in found], args.json, indent=2)
    if args.fix_list:
        images = to_leave_out(found)
        lines = [f'# Images of {args.config} to leave out, for tools/train.py --leave-out']
        lines += [f'{image}\t{why}' for image, why in images.items()]
        Path(args.fix_list).write_text('\n'.join([*lines, '']), encoding='utf-8')
        print(f'{len(images)} images to leave out -> {args.fix_list}')
    faults = sum(len(checked.faults) for checked in found)
    print(f'{faults} faults' if faults else 'no faults')
    sys.exit(1 if faults else 0)


if __name__ == '__main__':
    run(main)

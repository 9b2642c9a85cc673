"""Draw loss, metrics and learning rate of one or many trainings on one sheet.

python tools/visualization/curves.py work_dirs/resnet18_digits_scsa work_dirs/resnet18_digits

`make demo-compare` trains these two. Writes curves.png and the numbers, curves.json.
"""

import argparse
from pathlib import Path

from scsa.cli import run


def main() -> None:
    from scsa.visualization import curves
    from scsa.visualization.output import add_output_arguments, save_figure, save_json

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('work_dirs', nargs='+', type=Path, metavar='WORK_DIR')
    parser.add_argument(
        '--metric',
        nargs='+',
        dest='metrics',
        help="of the validations, such as accuracy/top1 or mIoU [the task's usual one]",
    )
    parser.add_argument('--log-loss', action='store_true', help='logarithmic axis of the loss')
    add_output_arguments(parser, 'work_dirs/curves')
    args = parser.parse_args()
    found = curves.read(args.work_dirs, args.metrics)
    paths = save_figure(curves.draw(found, args.log_loss), args.out_dir / 'curves', args.formats)
    print(*paths, save_json(args.out_dir / 'curves.json', found), sep='\n')


if __name__ == '__main__':
    run(main)

"""Times SCSA by each of its paths, whole models against each other, or takes the project's bars.

python tools/analysis/benchmark.py module --out work_dirs/stages
python tools/analysis/benchmark.py module --sweep --out work_dirs/sweep
python tools/analysis/benchmark.py model CONFIG OTHER_CONFIG --train --batch 64
python tools/analysis/benchmark.py model resnet50 resnet50_scsa --backbone --size 800 1333
python tools/analysis/benchmark.py bars --threads 2
python tools/analysis/benchmark.py draw work_dirs/stages.json
"""

import argparse
import os
import warnings
from pathlib import Path

os.environ.setdefault('KINETO_LOG_LEVEL', '5')  # the profiler that finds the peak talks a lot

from scsa.cli import UserError, existing, run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_subparsers(dest='mode', required=True)
    module = modes.add_parser('module', help='the attention alone, by each path')
    module.add_argument('--shapes', nargs='+', type=sizes, metavar='BxCxHxW')
    module.add_argument('--batch', type=int, default=16, help='of the four stages of ResNet-50')
    module.add_argument('--sweep', action='store_true', help='over pixels and over channels')
    types = ('float32', 'float16', 'bfloat16')
    module.add_argument('--dtypes', nargs='+', default=['float32'], choices=types)
    layouts = ('contiguous', 'channels_last')
    module.add_argument('--layouts', nargs='+', default=['contiguous'], choices=layouts)
    paths = ('reference', 'eager', 'compiled', 'triton')
    module.add_argument('--paths', nargs='+', choices=paths, help='default: all that can run')
    model = modes.add_parser('model', help='whole models, the first against each other')
    model.add_argument('models', nargs='+', help='configs, or resnet50, resnet50_scsa')
    model.add_argument('--batch', type=int, nargs='+', default=[16])
    model.add_argument(
        '--until-full', action='store_true', help='double the last batch until the GPU is full'
    )
    model.add_argument('--size', type=int, nargs='+', default=[224], help='height and width')
    model.add_argument('--train', action='store_true', help='a training step, else evaluation')
    model.add_argument('--amp', action='store_true')
    model.add_argument('--compile', action='store_true')
    model.add_argument('--backbone', action='store_true', help='without neck and head')
    model.add_argument('--protocol', choices=('in-turn', 'published'), default='in-turn')
    bars = modes.add_parser('bars', help='what SCSA is to cost at most, and whether it does')
    bars.add_argument('groups', nargs='*', help='such as growth; default: all of the device')
    for mode in (module, model, bars):
        mode.add_argument('--device', help='cpu or cuda; default: cuda where there is one')
        mode.add_argument('--threads', type=int, help='of the CPU')
        mode.add_argument('--repeats', type=int, default=30)
        mode.add_argument('--out', type=Path, help='write OUT.json and, but for bars, draw OUT.png')
    drawing = modes.add_parser('draw', help='the picture of a JSON file')
    drawing.add_argument('json', type=Path)
    return parser.parse_args()


def sizes(text: str) -> tuple:
    shape = tuple(int(size) for size in text.split('x'))
    if len(shape) != 4 or min(shape) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not BxCxHxW, such as 16x64x56x56')
    return shape


def main() -> None:
    args = parse_args()
    import torch

    from scsa.benchmark import timing

    if args.mode == 'draw':
        draw(existing(args.json, 'results', 'write them with --out'))
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: PyTorch finds no GPU; use --device cpu')
    rows = {'module': modules, 'model': models, 'bars': hold_bars}[args.mode](args, device)
    if args.out:
        source = args.out.with_suffix('.json')
        timing.save(source, rows)
        if args.mode == 'bars':
            return
        try:
            draw(source)
        except UserError as error:  # the measurement is not lost
            print(f'{source} is written but not drawn: {error}')


def draw(source: Path) -> None:
    try:
        from scsa.benchmark import figures
    except ModuleNotFoundError as error:
        raise UserError(f'{error}; install matplotlib to draw') from error
    figures.draw(source, source.with_suffix('.png'))
    print(f'{source}, {source.with_suffix(".png").name}')


def modules(args: argparse.Namespace, device) -> list:
    import torch

    from scsa.benchmark import modules as measure

    paths = args.paths or measure.paths_of(device)
    if args.sweep:
        found = measure.measure_sweeps(device, paths, args.repeats)
    else:
        shapes = args.shapes or [(args.batch, *stage) for stage in measure.STAGES]
        dtypes = [getattr(torch, name) for name in args.dtypes]
        check_autocast(device, dtypes)
        found = measure.measure_modules(shapes, dtypes, args.layouts, device, paths, args.repeats)
    print(measure.HEADER)
    rows = []
    for row in found:
        print(measure.line(row), flush=True)
        rows.append(row)
    print('\n'.join(measure.geometric_means(rows)))
    return rows


def check_autocast(device, dtypes: list) -> None:
    """Refuse a type under which the reference cannot run: older PyTorch has no float16 on CPUs."""
    import torch

    for dtype in set(dtypes) - {torch.float32}:
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            try:
                torch.autocast(device.type, dtype)
            except (UserWarning, RuntimeError) as error:
                raise UserError(f'no autocast to {dtype} on {device.type} here') from error


def models(args: argparse.Namespace, device) -> list:
    from scsa.benchmark import models as measure

    if args.until_full and device.type != 'cuda':
        raise UserError('--until-full: the memory of a CPU does not end; give --batch')
    size = (args.size * 2)[:2]
    runs = [
        measure.ModelRun(name, device, size, args.train, args.amp, args.compile, args.backbone)
        for name in args.models
    ]
    if args.protocol == 'published':
        rows = [measure.published_protocol(one) for one in runs]
        for row in rows:
            print(f'{row["model"]}: {row["images_per_second"]:.1f} images a second')
        return rows
    batches = args.batch
    if args.until_full:
        largest, doublings = measure.batches_until_full(runs, batches[-1])
        for name, batch in largest.items():
            print(f'{name}: batches of up to {batch} fit')
        if not doublings:
            raise UserError(f'--batch {batches[-1]} does not fit; start with a smaller one')
        batches = batches[:-1] + doublings
    rows = []
    for batch in batches:
        rows += measure.measure_models(runs, batch, args.repeats)
    print(measure.table(rows))
    return rows


def hold_bars(args: argparse.Namespace, device) -> list:
    from scsa.benchmark import bars

    known = list(bars.GROUPS[device.type])
    unknown = [name for name in args.groups if name not in known]
    if unknown:
        raise UserError(f'no bars {unknown[0]!r} on {device.type}; there are {", ".join(known)}')
    found = []
    for bar in bars.measure(device, args.groups or known, args.repeats, show):
        show(f'{bar.what}: {bar.verdict}')
        found.append(bar)
    print(bars.table(found))
    return [bar.row() for bar in found]


def show(text: str) -> None:
    print(text, flush=True)


if __name__ == '__main__':
    run(main)

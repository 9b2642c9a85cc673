"""Trains and tests configs for several seeds and says which is better, by how much, at what cost.

python tools/analysis/compare.py PLAIN.py OURS.py --seeds 0 1 2 --jobs 2 --out work_dirs/compare

The others are compared with the first. Start the same command again to go on where it stopped.
"""

import argparse
import json
from pathlib import Path

from scsa.cli import UserError, run

TOOLS = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    from scsa.engine.config import Overrides

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='the baseline first')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], help='[0 1 2]')
    where = parser.add_mutually_exclusive_group()
    where.add_argument('--jobs', type=int, default=1, help='runs at a time on the CPU [1]')
    where.add_argument(
        '--gpus', type=gpus_of, default=[], metavar='0,1', help='one run at a time on each'
    )
    parser.add_argument('--metric', help="such as accuracy/top1 or mIoU [the config's own]")
    parser.add_argument('--out', type=Path, default=Path('work_dirs/compare'), help='[%(default)s]')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--speed-batch', type=int, help="images of a timed step [the first config's]"
    )
    parser.add_argument('--speed-repeats', type=int, default=10, help='steps that are timed [10]')
    parser.add_argument(
        '--shape', nargs='+', type=int, metavar='PIXELS',
        help="side, or height and width, for GFLOPs and speed [the training pipeline's]",
    )  # fmt: skip
    parser.add_argument('--no-speed', action='store_true', help='measure no speed and no memory')
    parser.add_argument(
        '--cfg-options', nargs='+', action=Overrides, metavar='KEY=VALUE', help='for all configs'
    )
    args = parser.parse_args()
    if args.jobs < 1:
        raise UserError(f'--jobs {args.jobs}: give 1 or more')
    if args.shape and (len(args.shape) > 2 or min(args.shape) < 1):
        raise UserError('--shape: give a side, or height and width, in pixels')
    if len(set(args.seeds)) < len(args.seeds):
        raise UserError(f'--seeds {" ".join(map(str, args.seeds))}: one is given twice')
    return args


def gpus_of(text: str) -> list:
    """The GPUs that ``--gpus`` names; training on the CPU in place of one would go unnoticed."""
    import torch

    gpus = [name.strip() for name in text.split(',') if name.strip()]
    if len(set(gpus)) < len(gpus):
        raise UserError(f'--gpus {text}: one is named twice')
    here = torch.cuda.device_count()
    for name in gpus:
        if here == 0 or (name.isdigit() and int(name) >= here):
            raise UserError(f'--gpus {text}: GPU {name} is not here, there are {here}; try --jobs')
    return gpus


def main() -> None:
    args = parse_args()
    from scsa.analysis import compare

    configs = compare.prepare(args.configs, args.out, args.cfg_options)
    runs = compare.runs_of(configs, args.seeds)
    work = compare.Work(TOOLS, args.amp)
    failed = work.all(runs, compare.slots_of(args.jobs, args.gpus))
    report(args, configs, runs, {one.label: error for one, error in failed.items()})
    if failed:
        raise UserError(
            f'{len(failed)} of {len(runs)} runs failed, see above; '
            'start the same command again to try them again'
        )


def report(args, configs: list, runs: list, failed: dict) -> None:
    """Write the table, the plots and the page of what is done."""
    from scsa.analysis import compare, compare_costs, compare_page, compare_table

    done = [one for one in runs if one.metrics.exists()]
    if not done:
        raise UserError(f'no run succeeded: {next(iter(failed.values()))}')
    found = {one: compare_table.numbers(json.loads(one.metrics.read_text('utf-8'))) for one in done}
    hook = configs[0].cfg.get('default_hooks', {}).get('checkpoint') or {}
    names = list(dict.fromkeys(name for numbers in found.values() for name in numbers))
    metric = compare_table.choose_metric(names, args.metric, hook.get('save_best'))
    values = {config.name: {} for config in configs}
    for one in done:
        if metric in found[one]:
            values[one.config.name][one.seed] = found[one][metric]
        else:  # mmdet's evaluators give nothing at all then
            failed[one.label] = f'its test gave no {metric}; did it detect anything?'
            print(f'{one.label}: {failed[one.label]}')
    shape = tuple((args.shape * 2)[:2]) if args.shape else None
    costs = {config.name: compare_costs.size_of(config, shape) for config in configs}
    if not args.no_speed:
        batch = args.speed_batch or configs[0].cfg.train_dataloader.get('batch_size') or 1
        gpu = args.gpus[0] if args.gpus else None
        try:
            speeds = compare_costs.measure(
                configs, args.out, TOOLS, batch, args.speed_repeats, gpu, shape
            )
            for name, speed in speeds.items():
                costs[name].update(speed)
        except UserError as error:  # the rest is not lost
            print(error)
    rows = compare_table.table_rows(values, costs, metric)
    figures = {**compare_page.draw_curves(done, metric), **compare_page.draw_costs(rows)}
    table = compare_table.markdown(rows)
    compare.write(args.out / 'table.md', table)
    compare.write(args.out / 'table.csv', compare_table.as_csv(rows))
    compare.write(args.out / 'table.json', compare_table.as_json(rows, values, failed))
    compare.write(args.out / 'index.html', compare_page.page(rows, figures, failed))
    compare_page.save_plots(figures, args.out / 'plots')
    print(f'\n{table}\n{args.out}/index.html, table.md, table.csv, table.json, plots/')


if __name__ == '__main__':
    run(main)

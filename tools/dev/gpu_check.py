"""Tests, trains and measures on a GPU, and writes what came of it as results.json and table.md.

python tools/dev/gpu_check.py --wheels wheels
python tools/dev/gpu_check.py --only 'imagenet-*' bench-bars

Each step runs in a process of its own: first, all at once, those that time nothing, then the
others one by one. One that fails is a row with its error, and the exit code is then 1. `--only`
keeps the rows of the other steps, if they were taken with the same versions on the same machine.
docs/gpu-check.md says what the steps are.
"""

import argparse
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.util import find_spec
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
import gpu_wheels  # noqa: E402

from scsa.cli import UserError, run  # noqa: E402

DIGITS_CONFIG = 'configs/quickstart/resnet18_digits_scsa.py'
DIGITS_BAR = 90  # top-1 in percent; float32 gives 99 and more, guessing 10
MACHINE = 'import json, scsa.benchmark.timing as b; print(json.dumps(b.machine()))'
MARK = 'pytest.mark.gpu'
WORDS = 300  # of an error, in characters
SUMMARY = 24  # lines at the end of a benchmark's output


class Step(NamedTuple):
    """A command and the function that reads its figures, a dict, when it is done."""

    name: str
    command: list
    read: Callable[[], dict] = dict
    timed: bool = True  # so that nothing may run beside it


class StepError(Exception):
    """What a step that ended well found is not good enough."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--wheels', type=Path, help='folder that make gpu-wheels collected')
    parser.add_argument('--device', default='cuda', choices=('cuda', 'cpu'))
    parser.add_argument('--tiny', action='store_true', help='as little as shows that it works')
    parser.add_argument('--only', nargs='+', metavar='STEP', help='names or patterns of steps')
    parser.add_argument('--list', action='store_true', help='print the names of the steps')
    parser.add_argument('--limit', type=int, default=900, help='seconds a step may take [900]')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/gpu_check'))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    args.out = args.out.resolve()
    steps = [*tests(args), *digits(args), *imagenet(args), *benchmarks(args)]
    order = [step.name for step in steps]
    if args.only:
        chosen = {n for p in args.only for n in fnmatch.filter(order, p)}
        steps = [step for step in steps if step.name in chosen]
        if not steps:
            raise UserError(f'--only {" ".join(args.only)}: no such step; --list shows them')
    if args.list:
        print(*(step.name for step in steps), sep='\n')
        return
    environment = prepare(args)
    machine = facts(environment, args)
    rows = earlier(args.out / 'results.json', machine) if args.only else []
    failed = False
    for row in executed(steps, environment, args):
        print(f'{row["step"]} ... {verdict(row)}', flush=True)
        failed |= 'error' in row
        rows = [old for old in rows if old['step'] != row['step']] + [row]
        rows.sort(key=lambda row: order.index(row['step']))
        # After each step: what an interrupted run has measured is kept.
        results = json.dumps(dict(machine=machine, rows=rows), indent=1)
        (args.out / 'results.json').write_text(results + '\n', 'utf-8')
        (args.out / 'table.md').write_text(markdown(machine, rows), 'utf-8')
    print(f'{os.path.relpath(args.out)}/results.json, table.md')
    sys.exit(failed)


# The steps


def tests(args) -> list:
    """The tests that need a GPU."""
    report = args.out / 'tests.xml'

    def read() -> dict:
        suite = ElementTree.parse(report).getroot().find('testsuite')
        total, skipped = int(suite.get('tests')), int(suite.get('skipped'))
        if args.device == 'cuda' and total == skipped:
            raise StepError(f'none of the {total} tests ran: PyTorch or Triton finds no GPU')
        return dict(passed=total - skipped, skipped=skipped)

    # The other files, even unmarked, need packages that the check does without.
    files = [str(path) for path in ROOT.glob('tests/**/test_*.py') if MARK in path.read_text()]
    command = [sys.executable, '-m', 'pytest', '-q', '-m', 'gpu', '-p', 'no:cacheprovider']
    if find_spec('xdist'):  # compiling takes the most of the time
        command += ['-n', str(min(8, os.cpu_count() or 1))]
    return [Step('tests', [*command, f'--junitxml={report}', *sorted(files)], read, timed=False)]


def digits(args) -> list:
    """Mixed precision training of the classification quick start, and its validation."""
    data = args.out / 'digits'
    options = [f'{part}_dataloader.dataset.data_root={data}' for part in ('train', 'val')]
    if args.tiny:
        options += [
            # Of all digits: they lie in order, and the first ones are all of them noughts.
            f'train_dataloader.dataset.indices={[*range(0, 1400, 22)]}',
            f'val_dataloader.dataset.indices={[*range(0, 360, 18)]}',
            'train_cfg.max_epochs=2', 'param_scheduler.total_steps=2',
            'default_hooks.logger.interval=1',
        ]  # fmt: skip
    precisions = {
        'fp16': ['--amp', '--cfg-options', 'optim_wrapper.dtype=float16'],
        'bf16': ['--amp', '--cfg-options', 'optim_wrapper.dtype=bfloat16'],
    }
    if args.device == 'cpu':  # where mmengine has no mixed precision
        precisions = {'fp32': ['--cfg-options']}
    else:
        precisions['fp16-triton'] = precisions['fp16']

    def step(name: str, flags: list) -> Step:
        work_dir = args.out / f'digits-{name}'

        def read() -> dict:
            return last_scalars(work_dir, 0 if args.tiny else DIGITS_BAR)

        path = 'triton' if name.endswith('triton') else 'auto'
        command = ['env', f'SCSA_BACKEND={path}', sys.executable]
        command += ['tools/train.py', DIGITS_CONFIG, '--work-dir', work_dir]
        return Step(f'digits-{name}', [*command, *flags, *options], read, timed=False)

    return [step(name, flags) for name, flags in precisions.items()]


def last_scalars(work_dir: Path, bar: float) -> dict:
    """What the newest log of a training run says at its end."""
    log = max(work_dir.glob('*/vis_data/scalars.json'), key=lambda path: path.stat().st_mtime)
    scalars = [json.loads(line) for line in log.read_text().splitlines()]
    train = [line for line in scalars if 'loss' in line]
    top1 = [line for line in scalars if 'accuracy/top1' in line][-1]['accuracy/top1']
    figures = dict(top1=top1, loss=train[-1]['loss'])
    if 'memory' in train[-1]:
        figures['peak_bytes'] = train[-1]['memory'] * 2**20
    if not top1 >= bar:
        raise StepError(f'top-1 {top1:.2f} %, and {bar} is the least')
    return figures


def imagenet(args) -> list:
    """A training step of each ImageNet config, mixed precision as the config says."""
    configs = sorted(Path(ROOT, 'configs/classification').glob('*_in1k*.py'))
    steps = [imagenet_step(args, config) for config in configs]
    if args.device == 'cuda':  # the published command trains ResNet-50 with `--amp`
        steps += [imagenet_step(args, c, '--amp') for c in configs if 'resnet50_' in c.stem]
    return steps


def imagenet_step(args, config: Path, *flags: str) -> Step:
    name = '-'.join(['imagenet', config.stem, *(flag.strip('-') for flag in flags)])
    figures = args.out / f'{name}.json'
    tiny = ['--batch', '2', '--steps', '1'] if args.tiny else []
    command = ['tools/analysis/training_step.py', config.relative_to(ROOT), '--device', args.device]
    return Step(
        name,
        [sys.executable, *command, *flags, *tiny, '--out', figures],
        lambda: json.loads(figures.read_text()),
    )


def benchmarks(args) -> list:
    """The commands of `make bench-gpu`, one by one."""
    if args.tiny:
        out = os.path.relpath(args.out / 'module', ROOT)  # for the table: no path of this machine
        lines = [f'{shlex.quote(sys.executable)} tools/analysis/benchmark.py module --device '
                 f'{args.device} --shapes 1x8x14x14 --paths reference eager --repeats 2 '
                 f'--out {shlex.quote(out)}']  # fmt: skip
    else:
        make = ['make', '--no-print-directory', '-n', 'bench-gpu', f'BENCH_PYTHON={sys.executable}']
        text = subprocess.run(make, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        lines = text.replace('\\\n', ' ').splitlines()
    return [benchmark(args, line) for line in lines]


def benchmark(args, line: str) -> Step:
    words = shlex.split(line)
    figures = Path(ROOT, words[words.index('--out') + 1]).with_suffix('.json')
    name = f'bench-{figures.stem}'

    def read() -> dict:
        output = Path(args.out, f'{name}.log').read_text().splitlines()
        return dict(
            command='python ' + line[line.index('tools/analysis/') :],
            rows=json.loads(figures.read_text())['rows'],
            summary=[text for text in output if '.json' not in text][-SUMMARY:],
        )

    return Step(name, ['bash', '-c', line], read, timed='accuracy' not in words)


# Running them


def prepare(args) -> dict:
    """Installs the wheels, lays the digits out; returns the environment of the steps."""
    if not args.only:
        shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True, exist_ok=True)
    path = [str(ROOT)]
    if args.wheels:
        site = args.out / 'site'
        print(f'installed {len(gpu_wheels.install(args.wheels, site))} wheels for the check')
        path.append(str(site))
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path), PYTHONWARNINGS='ignore')
    environment.pop('MAKEFLAGS', None)  # of the make that called us
    if args.device == 'cpu':
        environment['CUDA_VISIBLE_DEVICES'] = ''
    if not (args.out / 'digits').exists():
        if args.wheels:
            shutil.unpack_archive(args.wheels / gpu_wheels.DIGITS, args.out)
        else:
            write = ['tools/dataset_converters/digits.py', '--out', args.out / 'digits']
            subprocess.run([sys.executable, *write], cwd=ROOT, env=environment, check=True)
    return environment


def facts(environment: dict, args) -> dict:
    """What the figures are taken on and with.

    Raises:
        UserError: The device is not there, or what the steps need cannot be imported.
    """

    def python(code: str) -> subprocess.CompletedProcess:
        command = [sys.executable, '-c', code]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    done = python(MACHINE)
    if done.returncode:
        raise UserError(f'PyTorch does not start here: {last_words(done.stderr)}')
    found = json.loads(done.stdout.splitlines()[-1])
    if args.device == 'cuda' and 'gpu' not in found:
        raise UserError('PyTorch finds no GPU; --device cpu --tiny tries the tool without one')
    if 'mmpretrain' not in found:
        cause = last_words(python('import mmpretrain').stderr)
        raise UserError(f'mmpretrain cannot be imported ({cause}); docs/gpu-check.md helps')
    return dict(found, command='python ' + ' '.join(sys.argv))


def earlier(path: Path, machine: dict) -> list:
    """The rows of an earlier run with the same versions on the same machine."""
    if not path.exists():
        return []
    found = json.loads(path.read_text('utf-8'))
    same = {key: value for key, value in machine.items() if key not in ('date', 'command')}
    return found['rows'] if same.items() <= found['machine'].items() else []


def executed(steps: list, environment: dict, args) -> Iterator[dict]:
    """The rows of all steps, as they come."""
    together = [step for step in steps if not step.timed]
    with ThreadPoolExecutor(len(together) or 1) as pool:
        for done in as_completed(pool.submit(execute, s, environment, args) for s in together):
            yield done.result()
    for step in steps:
        if step.timed:
            yield execute(step, environment, args)


def execute(step: Step, environment: dict, args) -> dict:
    """Runs a step; returns its row."""
    log, errors = (args.out / f'{step.name}.{end}' for end in ('log', 'err'))
    row, start = dict(step=step.name), time.monotonic()
    try:
        with log.open('w') as out, errors.open('w') as err:
            done = subprocess.run(
                list(map(str, step.command)), cwd=ROOT, env=environment, timeout=args.limit,
                stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            )  # fmt: skip
        if done.returncode:
            row['error'] = last_words(''.join(f.read_text(errors='replace') for f in (log, errors)))
        else:
            row.update(step.read())
    except subprocess.TimeoutExpired:
        row['error'] = f'not done after {args.limit} seconds'
    except (StepError, OSError, LookupError, ValueError) as error:
        row['error'] = f'{type(error).__name__}: {error}'[:WORDS]
    row['seconds'] = round(time.monotonic() - start, 1)
    return row


def last_words(text: str) -> str:
    """The line of an output that says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r'E  |[\w.]*(Error|Exception)\b|error:', line)]
    return (errors or lines or ['it ended without a word'])[-1].removeprefix('E ').strip()[:WORDS]


# The table


def verdict(row: dict) -> str:
    """How a step went, in words."""
    if 'error' in row:
        return f'FAILED: {row["error"]}'
    if 'passed' in row:
        return f'{row["passed"]} passed, {row["skipped"]} skipped'
    if 'top1' in row:
        return f'top-1 {row["top1"]:.2f} %'
    if 'images_per_second' in row:
        return f'{row["images_per_second"]:.1f} images/s'
    return f'{len(row["rows"])} figures'


def markdown(machine: dict, rows: list) -> str:
    """All rows as a table, then what each benchmark printed last."""
    lines = ['| | |', '|---|---|', *(f'| {key} | {value} |' for key, value in machine.items())]
    lines += [
        '',
        '| step | result | precision | batch | peak GiB | s |',
        '|---|---|---|---|---|---|',
    ]
    for row in rows:
        peak = f'{row["peak_bytes"] / 2**30:.2f}' if 'peak_bytes' in row else ''
        cells = [row['step'], verdict(row).replace('|', r'\|'), row.get('precision', ''),
                 row.get('batch', ''), peak, row['seconds']]  # fmt: skip
        lines.append(f'| {" | ".join(map(str, cells))} |')
    for row in rows:
        if 'summary' in row:
            command = ' '.join(row['command'].split())
            lines += ['', f'{row["step"]}: `{command}`', '', '```', *row['summary'], '```']
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    run(main)

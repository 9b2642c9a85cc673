"""The same weights and images in two environments: do they give the same outputs?

python tools/dev/parity.py write work_dirs/parity/paper          # in one
python tools/dev/parity.py compare work_dirs/parity/paper        # in the other
python tools/dev/parity.py resume --other .venv-modern/bin/python

`write` and `compare` take all cases whose packages are installed, or those named. `resume` trains
on the digits here, resumes the first checkpoint in the other environment, and compares what both
end with: weights, and the optimizer's momentum.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from scsa.cli import UserError, existing, run

ROOT = Path(__file__).resolve().parents[2]
RESUME_BAR = 1e-5  # relative distance of any tensor
CONFIG = 'configs/quickstart/resnet18_digits_scsa.py'
# Three epochs of three steps on 96 digits; the checkpoint of the first is the one resumed.
SHORT = (
    'train_dataloader.dataset.indices=96', 'train_dataloader.batch_size=32',
    'param_scheduler.total_steps=3', 'train_cfg.max_epochs=3',
    'default_hooks.logger.interval=1', 'default_hooks.checkpoint.max_keep_ckpts=-1',
)  # fmt: skip


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_subparsers(dest='mode', required=True)
    for name, text in (
        ('write', 'write the outputs of this environment'),
        ('compare', 'compare with written ones'),
    ):
        mode = modes.add_parser(name, help=text)
        mode.add_argument('path', type=Path, help='PATH.npz, and PATH.json for the versions')
        mode.add_argument('--cases', nargs='+', help='default: all that can run here')
    resume = modes.add_parser('resume', help='train here, resume there')
    resume.add_argument('--other', required=True, help='the Python of the other environment')
    resume.add_argument('--out', type=Path, default=Path('work_dirs/parity'))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    good = {'write': write, 'compare': compare, 'resume': resume}[args.mode](args)
    sys.exit(not good)


def cases(args: argparse.Namespace) -> list:
    from scsa.analysis import parity

    here = parity.available()
    missing = [name for name in args.cases or () if name not in here]
    if missing:
        raise UserError(f'case {missing[0]} cannot run here; {", ".join(here)} can')
    return args.cases or here


def write(args: argparse.Namespace) -> bool:
    from scsa.analysis import parity

    parity.save(args.path, {name: parity.outputs(name) for name in cases(args)})
    print(f'{args.path}.npz, {args.path.name}.json')
    return True


def compare(args: argparse.Namespace) -> bool:
    from scsa.analysis import parity

    how = 'write it with parity.py write in the other environment'
    existing(args.path.with_suffix('.npz'), 'outputs', how)
    expected, good = parity.load(args.path), True
    for name in cases(args):
        if name not in expected:
            print(f'{name}: not in {args.path}.npz')
            continue
        _, text, near = parity.compare(name, parity.outputs(name), expected[name])
        print(f'{name}: {text}{"" if near else "; TOO FAR"}', flush=True)
        good &= near
    return good


def resume(args: argparse.Namespace) -> bool:
    existing(args.other, 'Python of the other environment', 'give another to --other')
    out = args.out.resolve()
    data = out / 'digits'
    if not data.exists():
        execute(sys.executable, 'tools/dataset_converters/digits.py', '--out', data)
    roots = [f'{part}_dataloader.dataset.data_root={data}' for part in ('train', 'val')]
    options = ['--no-validate', '--cfg-options', *roots, *SHORT]
    train = ['tools/train.py', CONFIG]
    here, there = out / 'here', out / 'there'
    execute(sys.executable, *train, '--work-dir', here, *options)
    checkpoint = here / 'epoch_1.pth'
    execute(args.other, *train, '--resume', checkpoint, '--work-dir', there, *options)
    good = True
    for what, distance in distances(here / 'epoch_3.pth', there / 'epoch_3.pth').items():
        near = distance <= RESUME_BAR
        verdict = '' if near else '; TOO FAR'
        print(f'{what}: {distance:.1e} relative at worst, {RESUME_BAR:.0e} allowed{verdict}')
        good &= near
    return good


def execute(*command) -> None:
    """Runs a tool in the checkout, on one thread: sums then have one order."""
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        print(done.stdout[-4000:], file=sys.stderr)
        raise UserError(f'{command[0]} {command[1]} failed; its output is above')


def distances(first: Path, second: Path) -> dict:
    """Of the weights and of the optimizer's momentum, the worst tensor's each."""
    from mmengine.runner.checkpoint import _load_checkpoint

    one, two = (_load_checkpoint(str(path), map_location='cpu') for path in (first, second))

    def worst(expected: list, found: list) -> float:
        pairs = [(a.double(), b.double()) for a, b in zip(expected, found)]
        return max(((a - b).norm() / a.norm().clamp_min(1e-12)).item() for a, b in pairs)

    def weights(checkpoint: dict) -> list:
        return list(checkpoint['state_dict'].values())

    def momentum(checkpoint: dict) -> list:
        return [state['momentum_buffer'] for state in checkpoint['optimizer']['state'].values()]

    return {
        'weights': worst(weights(one), weights(two)),
        'momentum': worst(momentum(one), momentum(two)),
    }


if __name__ == '__main__':
    run(main)

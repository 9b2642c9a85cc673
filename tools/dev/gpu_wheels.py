"""Collects what `make gpu-check` needs on a machine without a network, and installs it there.

The folder holds wheels for Python 3.12 on x86-64 Linux and the digits of the quick start. With
`--pure` the compiled wheels stay behind: for a machine that has OpenCV, matplotlib, Pillow,
PyYAML and torchvision.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from scsa.cli import UserError, existing, run  # noqa: E402

PYTHON = '3.12'
# pip takes each name literally: an older one does not follow from a newer.
PLATFORMS = [f'manylinux_2_{n}_x86_64' for n in (28, 27, 17)] + ['manylinux2014_x86_64']
DIGITS = 'digits.zip'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', type=Path)
    parser.add_argument('--pure', action='store_true', help='only wheels of pure Python')
    args = parser.parse_args()
    collect(args.folder, args.pure)
    size = sum(path.stat().st_size for path in args.folder.iterdir()) / 2**20
    print(f'{args.folder}: {len(wheels(args.folder))} wheels and the digits, {size:.1f} MiB')


def collect(folder: Path, pure: bool) -> None:
    """Downloads the wheels and writes the digits."""
    shutil.rmtree(folder, ignore_errors=True)  # two versions of a package stop the install
    names = ['gpu-wheels.txt'] + ([] if pure else ['gpu-wheels-compiled.txt'])
    _pip(
        'download', '--no-deps', '--only-binary=:all:', '--python-version', PYTHON,
        *(f'--platform={name}' for name in PLATFORMS), '--dest', folder,
        *(f'-r{ROOT / "requirements" / name}' for name in names),
    )  # fmt: skip
    from scsa.datasets.digits import write_digits

    with tempfile.TemporaryDirectory() as scratch:
        write_digits(Path(scratch, 'digits'), 56)
        shutil.make_archive(str(folder / 'digits'), 'zip', scratch)


def install(folder: Path, site: Path) -> list[str]:
    """Puts what this Python lacks into a folder for PYTHONPATH; returns the names of the wheels.

    A package that is here already is left as it is: it fits the torch and numpy beside it. A
    folder, not a virtual environment, since those need ensurepip and do not see the packages of
    another virtual environment that they are made from.
    """
    found = wheels(existing(folder, 'folder of wheels', 'collect it with make gpu-wheels'))
    if not found:
        raise UserError(f'no wheels in {folder}; collect them with make gpu-wheels')
    here = {_distribution(there.name) for there in distributions() if there.name}
    lacking = [wheel for wheel in found if _distribution(wheel.name.split('-')[0]) not in here]
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    if lacking:
        _pip('install', '--no-index', '--find-links', folder, '--no-deps', '--no-compile',
             '--target', site, *lacking)  # fmt: skip
    return [wheel.name for wheel in lacking]


def wheels(folder: Path) -> list[Path]:
    """The wheels of a folder."""
    return sorted(folder.glob('*.whl'))


def _distribution(name: str) -> str:
    """A name without its spelling; all builds of OpenCV are one."""
    name = re.sub(r'[-_.]+', '-', name).lower()
    return 'opencv' if name.startswith('opencv-') else name


def _pip(*arguments) -> None:
    command = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '-q']
    done = subprocess.run([*command, *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if 'is ignored' not in line]
        raise UserError(f'pip {arguments[0]} failed: {lines[-1] if lines else "without a word"}')


if __name__ == '__main__':
    run(main)

"""Makes the virtual environment of a lane: what `requirements/LANE.txt` asks for.

A lane with OpenMMLab comes in one of two states. `lite` holds the whole stack with mmcv-lite,
ready in minutes: enough for classification. `full` swaps mmcv-lite for mmcv with compiled ops,
which detection and segmentation need; where no prebuilt wheel is to be had it is compiled once,
and pip's cache keeps it. The two packages own the same files and are never installed together.

Each finished step leaves a stamp named by a hash of what it was made from. So an interrupted run
is completed by the next, changed pins are noticed, and a run with nothing to do takes no time.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
import zipfile
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / 'requirements'
# The distribution of mmcv with compiled ops, in the lanes that have OpenMMLab. The fork has no
# lite one; the original's goes with it, since it is installed without what it asks for.
MMCV = {'paper': 'mmcv', 'modern': 'onedl-mmcv'}
LITE = 'mmcv-lite'
LANES = [p.stem for p in sorted(REQUIREMENTS.glob('*.txt')) if '\n-c ' in p.read_text()]

# Runs one of mmcv's compiled ops: the second box overlaps the first.
OPS_WORK = """
import sys, mmcv, torch
from mmcv.ops import nms
assert mmcv.__version__ == sys.argv[1]
boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1].tolist() == [0, 2]
"""
# A CUDA build needs a GPU that torch sees and a compiler of torch's own CUDA release.
CAN_BUILD_CUDA = """
import subprocess, torch
from torch.utils.cpp_extension import CUDA_HOME
assert torch.cuda.is_available() and CUDA_HOME
nvcc = subprocess.check_output([CUDA_HOME + '/bin/nvcc', '--version'], text=True)
assert 'release ' + torch.version.cuda.split('.')[0] + '.' in nvcc
"""

# What pip says, once it has tried a few times in a row, of a network or an index that fails now.
# No requirement of ours has a hash: where pip 24 misses one, the index's, a download was cut short.
NETWORK_FAILED = re.compile(
    r'incomplete-download|Connection (interrupted|broken|reset|refused|aborted)|IncompleteRead'
    r'|ReadTimeout|timed out|ProtocolError|NewConnectionError|Retrying \(Retry'
    r'|DO NOT MATCH THE HASHES'
)
PAUSES = (15, 60, 180, 300, 600)  # seconds before pip is run again: an index may need minutes


class EnvError(Exception):
    """Something the person at the keyboard can mend; its message is one line that says how."""


class NetworkError(EnvError):
    """The network or the index failed: what another attempt may mend."""


class Progress:
    """One updating line on a terminal; a plain line a minute where there is none."""

    def __init__(self, what, stream=sys.stderr, every=60.0):
        self.what, self.stream, self.every = what, stream, every
        self.terminal = stream.isatty()
        self.last = time.monotonic()
        if not self.terminal:
            print(f'{what} ...', file=stream, flush=True)

    def show(self, note):
        now = time.monotonic()
        if now - self.last < (0.1 if self.terminal else self.every):
            return
        self.last = now
        line = f'{self.what}: {note}'
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write(f'\r\033[K{line[:width]}')
            self.stream.flush()
        else:
            print(line, file=self.stream, flush=True)

    def close(self, done):
        if self.terminal:
            self.stream.write('\r\033[K')
        if done:
            print(f'{self.what}: done', file=self.stream, flush=True)


class Notes:
    """Turns the lines of pip's and ninja's output into what is worth showing."""

    def __init__(self):
        self.started = None
        self.file = 'a file'

    def __call__(self, line):
        line = line.strip()
        compiled = re.match(r'\[(\d+)/(\d+)\] ', line)
        if compiled:
            return self._compiled(*map(int, compiled.groups()))
        received = re.fullmatch(r'Progress (\d+) of (\d+)', line)
        if received:
            done, total = (int(n) / 1e6 for n in received.groups())
            return f'downloading {self.file}, {done:.0f} of {total:.0f} MB'
        if line.startswith('Downloading '):
            self.file = line.split()[1].rpartition('/')[2]
        if line.startswith(('Collecting ', 'Downloading ', 'Building ', 'Installing ')):
            return line[0].lower() + line[1:]
        return None

    def _compiled(self, done, total):
        now = time.monotonic()
        if self.started is None:  # the first file is done: time from here
            self.started = now, done
        since, first = self.started
        note = f'compiled {done} of {total} files'
        if done > first:
            left = (now - since) / (done - first) * (total - done)
            note += f', about {left / 60:.0f} min left'
        return note


def follow(command, what, log, env=None):
    """Runs `command`, keeps its output in `log` and shows how far it is.

    Raises:
        NetworkError: It failed, and its last lines tell of the network's trouble.
        EnvError: It failed for another reason. The telling lines of the log have been shown.
    """
    progress, notes = Progress(what), Notes()
    errors, tail = [], deque(maxlen=10)
    with open(log, 'w', encoding='utf-8') as out, subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
        env=env,
    ) as process:
        for line in process.stdout:
            if not line.startswith('Progress '):  # thousands, of a download
                out.write(line)
                tail.append(line)
                if 'error:' in line.lower():
                    errors.append(line)
            note = notes(line)
            if note:
                progress.show(note)
    progress.close(done=process.returncode == 0)
    if process.returncode:
        # The cause comes first in a compiler's log, last in pip's.
        shown = [*errors[:5], '...\n', *tail]
        sys.stderr.writelines(f'  | {line}' for line in shown)
        # At the end of it only: what came before, pip has got over.
        kind = NetworkError if NETWORK_FAILED.search(''.join(tail)) else EnvError
        raise kind(f'{what}: failed; the whole log is {log}')


class Environment:
    """The virtual environment of a lane, made step by step."""

    def __init__(self, lane, folder):
        self.lane = lane
        self.mmcv = MMCV.get(lane)
        self.files = _files(REQUIREMENTS / f'{lane}.txt')
        (self.pins,) = (path for path in self.files if path.stem.endswith('-constraints'))
        self.folder = Path(folder).absolute()
        self.python = self.folder / 'bin' / 'python'
        self.made = self.folder / 'made'  # stamps and logs

    def make(self, full):
        """Completes the environment.

        Args:
            full: Whether mmcv's compiled ops are needed; if not, either state will do.
        """
        self._create()
        asked = [path.read_bytes() for path in self.files]
        packages = _hash(sys.version, asked)
        self._once('packages', packages, self._install_packages)
        if self.mmcv and full:
            self._once('mmcv-ops', packages, self._install_ops)
        elif self.mmcv:
            self._once('mmcv-lite', packages, self._install_lite)
        if REQUIREMENTS / 'runtime.txt' in self.files:
            source = [(ROOT / name).read_bytes() for name in ('setup.py', 'scsa/version.py')]
            self._once('project', _hash(ROOT, asked, source), self._install_project)

    def _once(self, step, version, action):
        stamp = self.made / f'{step}.{version}'
        if not stamp.exists():
            self._forget(step)
            action()
            stamp.touch()

    def _forget(self, step):
        for stamp in self.made.glob(f'{step}.*'):
            stamp.unlink()

    def _create(self):
        ours = (self.folder / 'pyvenv.cfg').exists()
        if self.folder.exists() and not ours and any(self.folder.iterdir()):
            raise EnvError(f'{self.folder} is no virtual environment; choose another with VENV=')
        version = self._run('-c', 'import sys; print(sys.version)') if ours else None
        if version and version.strip() != sys.version:
            raise EnvError(
                f'{self.folder} is of Python {version.split()[0]}, not {sys.version.split()[0]}; '
                'remove it, or choose another with VENV='
            )
        if not version or self._run('-m', 'pip', '--version') is None:
            size = '2.5 GB' if REQUIREMENTS / 'runtime.txt' in self.files else '15 MB'
            _say(
                f'{self.folder}: Python {sys.version.split()[0]}; {size} to download the first time'
            )
            # A folder whose Python does not run is what a vanished interpreter left.
            venv.create(self.folder, clear=ours and not version, symlinks=True, with_pip=True)
        self.made.mkdir(exist_ok=True)

    def _install_packages(self):
        # The pinned pip first: older ones know no `--progress-bar raw`.
        self._pip('pip', 'pip', 'install', '-c', self.pins, 'pip')
        lane = REQUIREMENTS / f'{self.lane}.txt'
        self._pip('packages', 'packages', 'install', '--progress-bar', 'raw', '-r', lane)

    def _install_project(self):
        self._pip('project', 'scsa', 'install', '--no-deps', '--no-build-isolation', '-e', ROOT)

    def _install_lite(self):
        # mmcv with ops does as well, once it is there
        if not self._has(self.mmcv) or self._has(LITE):
            self._swap_mmcv(LITE)

    def _install_ops(self):
        if self._ops_work() and not self._has(LITE):
            return
        with tempfile.TemporaryDirectory() as folder:
            self._swap_mmcv(self._prebuilt(folder) or self._build(folder))

    def _swap_mmcv(self, new):
        # Between the two pip calls there is no mmcv at all: neither stamp may outlive that.
        self._forget('mmcv-lite')
        self._forget('mmcv-ops')
        old = [name for name in (self.mmcv, LITE) if self._has(name)]
        if old:
            self._pip('mmcv-out', f'removing {" and ".join(old)}', 'uninstall', '-y', *old)
        self._pip('mmcv-in', 'mmcv', 'install', '--no-deps', '-c', self.pins, new)

    def _prebuilt(self, folder):
        """Returns a wheel of mmcv that runs here, from the index or MMCV_WHEELS; None if none."""
        where = os.environ.get('MMCV_WHEELS')
        links = ('--find-links', where) if where else ()
        pip_wheel = ('-m', 'pip', 'wheel', '--no-deps', '-c', self.pins, '-w', folder)
        if self._run(*pip_wheel, '--only-binary', self.mmcv, *links, self.mmcv) is not None:
            (wheel,) = Path(folder).glob('*.whl')
            if self._runs_here(wheel):
                return wheel
            wheel.unlink()
        _say('mmcv: no prebuilt wheel for this Python and torch; compiling it takes 10 to 30 min,')
        _say('      unless pip has it cached')
        return None

    def _build(self, folder):
        """Returns a wheel of mmcv compiled here, now or earlier (pip caches what it builds)."""
        pip_wheel = ('wheel', '-v', '--no-deps', '-c', self.pins, '-w', folder)
        for _ in range(2):
            try:
                self._pip(
                    'mmcv',
                    'compiling mmcv',
                    *(*pip_wheel, '--no-binary', self.mmcv, '--no-build-isolation', self.mmcv),
                    env=self._build_variables(),
                )
            except EnvError as error:
                raise EnvError(f'{error}{_missing_for_build()}') from None
            (wheel,) = Path(folder).glob('*.whl')
            if self._runs_here(wheel):
                return wheel
            # It came from pip's cache: built without ops, or against another torch.
            wheel.unlink()
            self._run('-m', 'pip', 'cache', 'remove', self.mmcv)
        raise EnvError(f'mmcv was compiled but its ops do not run; see {self._log("mmcv")}')

    def _build_variables(self):
        path = os.pathsep.join([str(self.python.parent), os.environ['PATH']])  # finds ninja
        env = dict(os.environ, MMCV_WITH_OPS='1', PATH=path)
        env.setdefault('MAX_JOBS', str(os.cpu_count()))  # mmcv's own choice: 4, whatever is there
        if 'FORCE_CUDA' not in env:
            cuda = self._run('-c', CAN_BUILD_CUDA) is not None
            env['FORCE_CUDA'] = str(int(cuda))
            if not cuda:
                env['CUDA_VISIBLE_DEVICES'] = ''  # a visible GPU alone makes mmcv want nvcc
        return env

    def _runs_here(self, wheel):
        """Tries a wheel before it replaces anything."""
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
            return self._ops_work(folder)

    def _ops_work(self, folder=None):
        (pinned,) = re.findall(rf'^{self.mmcv}==(\S+)', self.pins.read_text(), re.MULTILINE)
        return self._run('-c', OPS_WORK, pinned, first_on_path=folder) is not None

    def _has(self, distribution):
        script = f'from importlib.metadata import version; version("{distribution}")'
        return self._run('-c', script) is not None

    def _run(self, *arguments, first_on_path=None):
        """Returns what the environment's Python prints; None if it fails or is not there."""
        env = dict(os.environ)
        if first_on_path:
            env['PYTHONPATH'] = str(first_on_path)
        try:
            return subprocess.run(
                [str(part) for part in (self.python, *arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                check=True,
                env=env,
            ).stdout
        except (OSError, subprocess.CalledProcessError):
            return None

    def _pip(self, step, what, *arguments, env=None):
        command = [self.python, '-m', 'pip', *arguments, '--disable-pip-version-check']
        for pause in (*PAUSES, None):
            try:
                return follow([str(part) for part in command], what, self._log(step), env)
            except NetworkError:
                if pause is None:
                    raise
                _say(f'{what}: the network or the index failed; trying again in {pause} s')
                time.sleep(pause)

    def _log(self, step):
        return self.made / f'{step}-log.txt'


def _say(line):
    print(line, file=sys.stderr, flush=True)


def _files(requirements):
    """Returns a file of requirements and all that it names with -r and -c."""
    named = re.findall(r'^-[rc] (\S+)', requirements.read_text(), re.MULTILINE)
    return [requirements, *(file for name in named for file in _files(REQUIREMENTS / name))]


def _hash(*made_from):
    return hashlib.sha256(repr(made_from).encode()).hexdigest()[:12]


def _missing_for_build():
    """Says what a failed compilation lacked, where that is plain to see."""
    if not shutil.which(os.environ.get('CXX', 'c++')):
        return '; there is no C++ compiler (Debian, Ubuntu: install build-essential)'
    if not Path(sysconfig.get_paths()['include'], 'Python.h').exists():
        version = '.'.join(map(str, sys.version_info[:2]))
        return f'; Python.h is missing (Debian, Ubuntu: install python{version}-dev)'
    return ''


def main():
    """Parses the arguments, makes the environment, turns what fails into one line."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('lane', choices=LANES)
    parser.add_argument('--full', action='store_true', help='mmcv with compiled ops, not mmcv-lite')
    parser.add_argument('--venv', help='its folder (default: .venv-LANE)')
    args = parser.parse_args()
    try:
        Environment(args.lane, args.venv or f'.venv-{args.lane}').make(args.full)
    except EnvError as error:
        _say(f'error: {error}')
        sys.exit(2)
    except KeyboardInterrupt:
        _say('\ninterrupted; the next run goes on from here')
        sys.exit(130)


if __name__ == '__main__':
    main()

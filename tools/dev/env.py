"""Makes the virtual environments, with uv, from the locks in requirements/locks.

`dev` holds uv, nox and ruff. An environment with OpenMMLab has mmcv-lite or, with --full, mmcv with
compiled ops: the two own the same files. What an environment was made from is noted in its folder
at the end, so an interrupted run is completed by the next, and an unchanged one takes no time.
"""

import argparse
import ast
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS, DEV = ROOT / 'requirements', ROOT / '.venv-dev' / 'bin'
LANES = [p.stem for p in sorted(REQUIREMENTS.glob('*.txt')) if '\n-c ' in p.read_text()]
MMCV = {'paper': 'mmcv', 'modern': 'onedl-mmcv'}  # what has the ops
OPS_WORK = """import sys, mmcv, torch; from mmcv.ops import nms
assert mmcv.__version__ == sys.argv[1]
boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1].tolist() == [0, 2]"""
# A CUDA build needs a GPU that torch sees and a compiler of torch's own CUDA release.
CUDA = """import subprocess, torch; from torch.utils.cpp_extension import CUDA_HOME as home
if torch.cuda.is_available():
    nvcc = home and subprocess.check_output([home + '/bin/nvcc', '--version'], text=True) or ''
    same = 'release %s.' % torch.version.cuda.split('.')[0] in nvcc
    print('build' if same else torch.version.cuda)"""
PIP_TO_UV = {  # what pip's configuration calls it, and uv
    **{'index-url': 'UV_DEFAULT_INDEX', 'extra-index-url': 'UV_INDEX', 'no-index': 'UV_NO_INDEX'},
    **{'find-links': 'UV_FIND_LINKS', 'trusted-host': 'UV_INSECURE_HOST', 'cert': 'SSL_CERT_FILE'},
    **{'client-cert': 'SSL_CLIENT_CERT', 'proxy': 'ALL_PROXY', 'timeout': 'UV_HTTP_TIMEOUT'},
    **{'default-timeout': 'UV_HTTP_TIMEOUT', 'retries': 'UV_HTTP_RETRIES'},
    'constraint': 'UV_CONSTRAINT',
}


class EnvError(Exception):
    """Something the person at the keyboard can mend; its message is one line that says how."""


def say(line):
    print(line, file=sys.stderr, flush=True)


def run(*command, env=None, quiet=True):
    """Returns what the command prints, or None if it fails; shown instead unless `quiet`."""
    to = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) if quiet else {}
    command = [str(part) for part in command]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, env=env, text=True, **to)
    except OSError:
        return None
    return None if done.returncode else (done.stdout or '').strip()


def variables(pip_config):
    """Returns the environment variables for uv: the user's, and what `pip config list` says."""
    # Of all indexes the best version, as with pip: the locks' hashes say what it may be.
    found = {'UV_INDEX_STRATEGY': 'unsafe-best-match', 'UV_HTTP_RETRIES': '6'}
    said = dict(re.findall(r'^(\S+?\.[\w-]+)=(.*)$', pip_config, re.MULTILINE))
    for section in ('global', 'install', ':env:'):  # the later wins, as with pip
        for name in PIP_TO_UV:
            words = ast.literal_eval(said.get(f'{section}.{name}', '""')).split()
            if words:
                found[PIP_TO_UV[name]] = (',' if name == 'find-links' else ' ').join(words)
    pyenv = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv')).glob('versions/*/bin')
    path = os.pathsep.join([os.environ.get('PATH', ''), *map(str, sorted(pyenv))])
    return {**found, **os.environ, 'PATH': path}


def version_of(python):
    return run(python, '-c', 'import sys; print("%d.%d" % sys.version_info[:2])')


def digest(*made_from):
    return hashlib.sha256(repr(made_from).encode()).hexdigest()[:12]


class Environment:
    """A virtual environment, made step by step."""

    def __init__(self, lane, folder):
        self.lane, self.folder, self.env = lane, Path(folder).absolute(), None
        self.python, self.note = self.folder / 'bin/python', self.folder / 'made-from.txt'
        self.lock, text = REQUIREMENTS / f'locks/{lane}.txt', REQUIREMENTS / f'{lane}.txt'
        takes, pins = re.search('^# python: (.*)\n-c (.*)', text.read_text(), re.M).groups()
        self.takes, self.pins = takes.split(), (REQUIREMENTS / pins).read_text()

    def make(self, full=False):
        """Completes the environment; `full` wants mmcv's ops, else either mmcv will do."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with open(f'{self.folder}.lock', 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one run at a time
            self._create()
            self._sync()
            if full and self.lane in MMCV and not self._ops(os.environ.get('MMCV_WHEELS')):
                self._add_ops()
                self._sync()

    def find_python(self):
        """Returns a Python for it: PYTHON=, its own, one that is here, one that uv fetches."""
        given, some = os.environ.get('PYTHON'), ' or '.join(self.takes)
        if not given and version_of(self.python) in self.takes:
            return self.python
        find = ('python', 'find', '--system', '--no-python-downloads')
        for name in [given] if given else self.takes:
            found = self.uv(*find, name)
            if found and version_of(found) in self.takes:
                return found
        if given:
            raise EnvError(f'PYTHON={given} does not run or is not {some}, as {self.lane} wants')
        say(f'no Python {some} here; asking uv to fetch {self.takes[0]}')
        self.uv('python', 'install', self.takes[0], UV_HTTP_RETRIES='1')
        found = self.uv(*find, self.takes[0])
        if not found:
            what = 'none could be fetched; install one, or name it with PYTHON='
            raise EnvError(f'no Python {some} for the {self.lane} environment here, and {what}')
        return found

    def uv(self, *command, quiet=True, **more):
        """Runs uv: an installed one of the pinned release, else that of `.venv-dev`."""
        if not self.env:
            pips = [DEV / 'python', sys.executable]
            found = (run(python, '-m', 'pip', 'config', 'list') for python in pips)
            self.env = variables(next(filter(None, found), ''))
        return run(which_uv(), *command, env={**self.env, **more}, quiet=quiet)

    def _create(self):
        bare = not (self.folder / 'pyvenv.cfg').exists()
        if bare and self.folder.exists() and any(self.folder.iterdir()):
            raise EnvError(f'{self.folder} is no virtual environment; choose another with VENV=')
        own, python = version_of(self.python), sys.executable
        if self.lane != 'dev':
            python = self.find_python()
        elif which_uv() == DEV / 'uv' and not (own and run(DEV / 'uv', '--version')):
            return self._bootstrap()
        if own and own != version_of(python) and self.lane != 'dev':
            raise EnvError(f'{self.folder} is of Python {own}; remove it, or choose another: VENV=')
        # A folder whose Python does not run is what a vanished interpreter left.
        if not own and self.uv('venv', '--clear', '--python', python, self.folder) is None:
            raise EnvError(f'uv cannot make {self.folder} with {python}; try another with PYTHON=')

    def _bootstrap(self):
        """Brings uv into the folder of dev, by pip."""
        try:
            venv.create(self.folder, clear=True, symlinks=True, with_pip=True)
        except subprocess.CalledProcessError:
            what = 'install its venv module (Debian: python3-venv), or name another: PYTHON='
            raise EnvError(f'{sys.executable} makes no virtual environments; {what}') from None
        lock = self.folder / 'uv.txt'
        lock.write_text(re.search(r'^uv==(.*\\\n)+.*', self.lock.read_text(), re.M)[0])
        pip = (self.python, '-m', 'pip', 'install', '-q', '--no-deps', '-r', lock)
        if run(*pip) is None and run(*pip, quiet=False) is None:
            raise EnvError('pip could not install uv; mend what it says above, and run again')

    def _sync(self):
        lock = self.lock.read_text()
        for wheel in self._ops():
            mmcv = f'{MMCV[self.lane]} @ {wheel.as_uri()}'
            lock = re.sub(r'^mmcv-lite==(.*\\\n)+.*', mmcv, lock, flags=re.M)
        sources = [(ROOT / name).read_text() for name in ('setup.py', 'scsa/version.py')]
        made_from = digest(lock, str(ROOT), sources)
        if self.note.exists() and self.note.read_text() == made_from:
            return
        self.note.write_text('unfinished')
        (self.folder / 'lock.txt').write_text(lock)
        self._install('sync', self.folder / 'lock.txt')
        if self.lane != 'dev':
            self._install('install', '--no-deps', '--no-build-isolation', '-e', ROOT)
        self.note.write_text(made_from)

    def _install(self, *arguments):
        command = ('pip', *arguments, '--python', self.python)
        if self.uv(*command, '--offline') is None:  # else all of it is in uv's cache
            say(f'{self.lane}: fetching what the cache of uv lacks')
            if self.uv(*command, quiet=False) is None:
                what = 'mend it (network, index of pip), and run this again: it goes on from here'
                raise EnvError(f'uv failed as said above; {what}')

    def _ops(self, wheels=None):
        """Returns the wheel with ops that belongs here; with `wheels`, only if it is from there."""
        made_from = digest(self.lock.read_text(), self.pins)
        return list(self.folder.glob(f'ops-{made_from}-{digest(wheels) if wheels else "*"}/*.whl'))

    def _add_ops(self):
        """Gets a wheel of mmcv with ops and tries it before it takes the place of mmcv-lite.

        Pip makes it, and keeps it in its cache: uv makes no wheel without installing it.
        """
        where = os.environ.get('MMCV_WHEELS')
        mmcv, pinned = re.search(rf'^{MMCV[self.lane]}==(\S+)', self.pins, re.M).group(0, 1)
        ops = self.folder / f'ops-{digest(self.lock.read_text(), self.pins)}-{digest(where)}'
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            pip = (self.python, '-m', 'pip', 'wheel', '-v', '--no-deps', '-w', folder, mmcv)
            for options in (('--find-links', where) if where else (), ('--no-binary', ':all:')):
                self._compile(*pip, '--no-build-isolation', *options)
                (wheel,), tried = Path(folder).glob('*.whl'), tempfile.mkdtemp(dir=folder)
                zipfile.ZipFile(wheel).extractall(tried)
                env = {**os.environ, 'PYTHONPATH': tried}
                if run(self.python, '-c', OPS_WORK, pinned, env=env) is not None:
                    for old in self.folder.glob('ops-*'):
                        shutil.rmtree(old)
                    ops.mkdir()
                    return wheel.rename(ops / wheel.name)
                wheel.unlink()  # and from pip's cache: it has no ops, or is for another torch
                run(self.python, '-m', 'pip', 'cache', 'remove', MMCV[self.lane])
        raise EnvError(f'mmcv was compiled but its ops do not run; see {self.folder}/mmcv-log.txt')

    def _compile(self, *command):
        path = os.pathsep.join([str(self.python.parent), os.environ['PATH']])  # finds ninja
        env = {'MAX_JOBS': str(os.cpu_count()), **os.environ, 'MMCV_WITH_OPS': '1', 'PATH': path}
        cuda = run(self.python, '-c', CUDA)
        env.setdefault('FORCE_CUDA', str(int(cuda == 'build')))
        if env['FORCE_CUDA'] == '0':
            env['CUDA_VISIBLE_DEVICES'] = ''  # a visible GPU alone makes mmcv want nvcc
        if env['FORCE_CUDA'] == '0' and cuda and not os.environ.get('MMCV_WHEELS'):
            say(f'warning: a GPU, but no nvcc of CUDA {cuda}: the ops will run on the CPU alone')
            wheels = "MMCV_WHEELS= with OpenMMLab's wheels for torch 2.1 and CUDA 12.1, or "
            say(f'  give {wheels if self.lane == "paper" else ""}the CUDA toolkit {cuda}')
        say('mmcv: compiling takes 10 to 30 min, unless there is a wheel for it')
        follow(command, env, self.folder / 'mmcv-log.txt')


def follow(command, env, log):
    """Compiles mmcv: one updating line on a terminal, else one a minute; the output goes to `log`.

    Raises:
        EnvError: It failed; the telling lines of the log have been shown.
    """
    begun, last, terminal = None, time.monotonic(), sys.stderr.isatty()
    pipe = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process = subprocess.Popen(
        list(map(str, command)), env=env, text=True, errors='replace', **pipe
    )
    with open(log, 'w', encoding='utf-8') as out, process:
        for line in process.stdout:
            out.write(line)
            compiled, now = re.match(r'\s*\[(\d+)/(\d+)\] ', line), time.monotonic()
            if compiled:
                done, total = map(int, compiled.groups())
                begun = begun or (now, done - 1)
                left = (now - begun[0]) / max(done - begun[1] - 1, 1) * (total - done) / 60
                if now - last > (0.1 if terminal else 60):
                    note = f'mmcv: compiled {done} of {total} files, about {left:.0f} min left'
                    sys.stderr.write(f'\r\033[K{note}' if terminal else f'{note}\n')
                    last = now
    if process.returncode:
        lines = Path(log).read_text(encoding='utf-8').splitlines()
        errors = [line for line in lines if 'error:' in line.lower()]
        say('\n'.join(f'  | {line}' for line in (*errors[:5], '...', *lines[-10:])))
        lack = '; Python.h is missing (pythonX.Y-dev)' if 'Python.h' in ''.join(errors) else ''
        if not shutil.which(env.get('CXX', 'c++')):
            lack = '; there is no C++ compiler (build-essential)'
        raise EnvError(f'mmcv: not compiled{lack}; the whole log is {log}')


def which_uv():
    """Returns an installed uv of the pinned release, else that of `.venv-dev`."""
    release = re.search(r'^uv==(\d+\.\d+\.)', (REQUIREMENTS / 'locks/dev.txt').read_text(), re.M)[1]
    installed = shutil.which('uv')
    fits = installed and f'uv {release}' in (run(installed, '--version') or '')
    return installed if fits else DEV / 'uv'


def choose(folder):
    """Returns the environment to take where LANE= names none, and why."""
    try:
        python = Environment('paper', folder or '.venv-paper').find_python()
        return 'paper', f'with {python}'
    except EnvError as error:
        Environment('modern', folder or '.venv-modern').find_python()
        return 'modern', str(error).partition(';')[0]


def main():
    """Parses the arguments, makes the environment, turns what fails into one line."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('lane', help=', '.join([*LANES, 'choose']))
    parser.add_argument('--full', action='store_true', help='mmcv with compiled ops, not mmcv-lite')
    parser.add_argument('--venv', help='its folder (default: .venv-LANE)')
    args = parser.parse_args()
    try:
        if args.lane == 'choose':
            lane, why = choose(args.venv)
            say(f'LANE={lane}: {why}')
            return print(lane)
        if args.lane not in LANES:
            raise EnvError(f'there is no LANE={args.lane}; there are: {" ".join(LANES)}')
        Environment(args.lane, args.venv or f'.venv-{args.lane}').make(args.full)
    except EnvError as error:
        say(f'error: {error}')
        sys.exit(2)
    except KeyboardInterrupt:
        say('interrupted; the next run goes on from here')
        sys.exit(130)


if __name__ == '__main__':
    main()

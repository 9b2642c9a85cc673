"""Makes the virtual environments, with uv, from the locks in requirements/locks.

`dev` holds uv itself, nox and ruff; pip makes it, under whatever Python runs this. An environment
with OpenMMLab has mmcv-lite, or, with --full, mmcv with compiled ops: the two own the same files.
Each finished step leaves a stamp named for what it was made from. So an interrupted run is
completed by the next, changed locks are noticed, and a run with nothing to do takes no time.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / 'requirements'
LANES = [p.stem for p in sorted(REQUIREMENTS.glob('*.txt')) if '\n-c ' in p.read_text()]
MMCV = {'paper': 'mmcv', 'modern': 'onedl-mmcv'}  # what has the ops
OPS_WORK = """
import sys, mmcv, torch
from mmcv.ops import nms
assert mmcv.__version__ == sys.argv[1]
boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1].tolist() == [0, 2]
"""
# A CUDA build needs a GPU that torch sees and a compiler of torch's own CUDA release.
CUDA = """
import subprocess, torch
from torch.utils.cpp_extension import CUDA_HOME as home
if torch.cuda.is_available():
    nvcc = home and subprocess.check_output([home + '/bin/nvcc', '--version'], text=True) or ''
    major = torch.version.cuda.split('.')[0]
    print('build' if f'release {major}.' in nvcc else torch.version.cuda)
"""
# What pip's configuration calls it, and uv; both read one variable for the rest.
PIP_TO_UV = {
    **{'index-url': 'UV_DEFAULT_INDEX', 'extra-index-url': 'UV_INDEX', 'no-index': 'UV_NO_INDEX'},
    **{'find-links': 'UV_FIND_LINKS', 'trusted-host': 'UV_INSECURE_HOST', 'cert': 'SSL_CERT_FILE'},
    **{'client-cert': 'SSL_CLIENT_CERT', 'proxy': 'ALL_PROXY', 'timeout': 'UV_HTTP_TIMEOUT'},
    'default-timeout': 'UV_HTTP_TIMEOUT',
}


class EnvError(Exception):
    """Something the person at the keyboard can mend; its message is one line that says how."""


def say(line):
    print(line, file=sys.stderr, flush=True)


def run(*command, env=None, quiet=True):
    """Returns what the command prints, or None if it fails; shown instead unless `quiet`."""
    to = subprocess.PIPE if quiet else None
    try:
        done = subprocess.run(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=to, env=env,
            stderr=subprocess.DEVNULL if quiet else None, text=True,
        )  # fmt: skip
    except OSError:
        return None
    return None if done.returncode else done.stdout or ''


def variables(pip_config):
    """Returns the environment variables for uv: the user's, and what `pip config list` says."""
    said = dict(re.findall(r'^(\S+?\.[\w-]+)=(.*)$', pip_config, re.MULTILINE))
    found = {}
    for section in ('global', 'install', ':env:'):  # the later wins, as with pip
        for name in PIP_TO_UV:
            if f'{section}.{name}' in said:
                found[name] = ' '.join(ast.literal_eval(said[f'{section}.{name}']).split())
    if 'find-links' in found:
        found['find-links'] = found['find-links'].replace(' ', ',')
    pyenv = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv')).glob('versions/*/bin')
    path = os.pathsep.join([os.environ.get('PATH', ''), *map(str, sorted(pyenv))])
    # Of all indexes the best version, as with pip: the locks' hashes say what it may be.
    ours = {'UV_INDEX_STRATEGY': 'unsafe-best-match', 'UV_HTTP_RETRIES': '6'}
    given = {PIP_TO_UV[name]: value for name, value in found.items()}
    return {**ours, **given, **os.environ, 'PATH': path}


class Environment:
    """A virtual environment, made step by step."""

    def __init__(self, lane, folder):
        self.lane, self.folder = lane, Path(folder).absolute()
        self.dev = self.folder if lane == 'dev' else ROOT / '.venv-dev'
        self.python, self.made = self.folder / 'bin' / 'python', self.folder / 'made'
        self.lock, self.mmcv = REQUIREMENTS / 'locks' / f'{lane}.txt', MMCV.get(lane)
        text = (REQUIREMENTS / f'{lane}.txt').read_text()
        self.takes = re.search('^# python: (.*)', text, re.MULTILINE)[1].split()
        self.pins = REQUIREMENTS / re.search('^-c (.*)', text, re.MULTILINE)[1]
        self._read_pip_config()

    def make(self, full=False):
        """Completes the environment; `full` wants mmcv's ops, else either mmcv will do."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with open(f'{self.folder}.lock', 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one run at a time
            self._make(full)

    def _read_pip_config(self):
        config = run(self.dev / 'bin' / 'python', '-m', 'pip', 'config', 'list')
        self.env = variables(config or '')

    def _make(self, full):
        ours = (self.folder / 'pyvenv.cfg').exists() or not self.folder.exists()
        if not ours and any(self.folder.iterdir()):
            raise EnvError(f'{self.folder} is no virtual environment; choose another with VENV=')
        if self.lane == 'dev':
            self._once('packages', _hash(self.lock.read_bytes(), sys.version), self._bootstrap)
            return
        self._create()
        version = _hash(self.lock.read_bytes(), run(self.python, '-VV'))
        wheels = os.environ.get('MMCV_WHEELS')
        ops = f'{version}.{_hash(wheels)}' if wheels else f'{version}.*'
        if not list(self.made.glob(f'ops.{version}.*')):
            self._once('packages', version, self._install_packages)
        if self.mmcv and full and not list(self.made.glob(f'ops.{ops}')):
            self._install_ops()
            (self.made / f'packages.{version}').touch()
            (self.made / f'ops.{version}.{_hash(wheels)}').touch()
        source = [(ROOT / name).read_bytes() for name in ('setup.py', 'scsa/version.py')]
        self._once('project', _hash(version, str(ROOT), source), self._install_project)

    def _once(self, step, version, action):
        if not (self.made / f'{step}.{version}').exists():
            self._forget(step)
            action()
            self.made.mkdir(exist_ok=True)
            (self.made / f'{step}.{version}').touch()

    def _forget(self, *steps):
        self.made.mkdir(exist_ok=True, parents=True)
        for stamp in [stamp for step in steps for stamp in self.made.glob(f'{step}.*')]:
            stamp.unlink()

    def find_python(self):
        """Returns a Python for it: PYTHON=, its own, one that is here, one that uv fetches."""
        given = os.environ.get('PYTHON')
        if not given and self._version(self.python) in self.takes:
            return self.python
        here = [self._uv('python', 'find', '--system', '--no-python-downloads', name)
                for name in ([given] if given else self.takes)]  # fmt: skip
        found = next((path.strip() for path in here if path), None)
        if given and (not found or self._version(found) not in self.takes):
            what = f'is Python {self._version(found)}' if found else 'does not run'
            raise EnvError(f'PYTHON={given} {what}; {self.lane} takes {" ".join(self.takes)}')
        if not found:
            say(f'no Python {" or ".join(self.takes)} here; asking uv to fetch {self.takes[0]}')
            self._uv('python', 'install', self.takes[0], UV_HTTP_RETRIES='1')
            found = self._uv('python', 'find', '--system', '--no-python-downloads', self.takes[0])
        if not found:
            raise EnvError(
                f'no Python {" or ".join(self.takes)} for the {self.lane} environment here, and '
                'none could be fetched; install one, or name it with PYTHON='
            )
        return found.strip()

    def _create(self):
        python, own = self.find_python(), self._version(self.python)
        if own and own != self._version(python):
            raise EnvError(f'{self.folder} is of Python {own}; remove it, or choose another: VENV=')
        # A folder whose Python does not run is what a vanished interpreter left.
        if not own and self._uv('venv', '--clear', '--python', python, self.folder) is None:
            raise EnvError(f'uv cannot make {self.folder} with {python}; try another with PYTHON=')

    def _bootstrap(self):
        try:
            venv.create(self.folder, clear=True, symlinks=True, with_pip=True)
        except subprocess.CalledProcessError:
            raise EnvError(
                f'{sys.executable} cannot make virtual environments; install its venv module '
                '(Debian, Ubuntu: python3-venv), or name another with PYTHON='
            ) from None
        with tempfile.NamedTemporaryFile('w', suffix='.txt') as lock:
            lock.write(re.search(r'^uv==(.*\\\n)+.*', self.lock.read_text(), re.MULTILINE)[0])
            lock.flush()
            pip = (self.python, '-m', 'pip', '--disable-pip-version-check', '-q', 'install')
            command = (*pip, '--no-deps', '-r', lock.name)
            if run(*command) is None and run(*command, quiet=False) is None:
                raise EnvError('pip could not install uv; mend what it says above, and run again')
        self._read_pip_config()
        self._install('dev', '--no-deps', '-r', self.lock)

    def _install_packages(self):
        self._forget('ops', 'project')
        if self.mmcv:  # a new lock starts from mmcv-lite; the two go before one comes
            self._uv('pip', 'uninstall', '--python', self.python, self.mmcv, 'mmcv-lite')
        self._install(self.lane, '--no-deps', '-r', self.lock)

    def _install_project(self):
        self._install('scsa', '--no-deps', '--no-build-isolation', '-e', ROOT)

    def _install_ops(self):
        """Puts mmcv with ops in place: from a prebuilt wheel, pip's cache or a compiler."""
        self._forget('packages', 'ops')  # until it is done there may be no mmcv at all
        (pinned,) = re.findall(rf'^{self.mmcv}==(\S+)', self.pins.read_text(), re.MULTILINE)
        self._uv('pip', 'uninstall', '--python', self.python, self.mmcv, 'mmcv-lite')
        for way in (self._prebuilt, self._build, self._build_anew):
            with tempfile.TemporaryDirectory() as folder:
                way(folder, f'{self.mmcv}=={pinned}')
                for wheel in Path(folder).glob('*.whl'):
                    self._install('mmcv', '--no-deps', '--reinstall', wheel)
                    if run(self.python, '-c', OPS_WORK, pinned) is not None:
                        return
        raise EnvError(f'mmcv was compiled but its ops do not run; see {self.made}/mmcv-log.txt')

    def _prebuilt(self, folder, mmcv):
        where = os.environ.get('MMCV_WHEELS')
        links = ('--find-links', where) if where else ()
        pip = (self.python, '-m', 'pip', 'wheel', '--no-deps', '-w', folder, *links)
        if run(*pip, '--only-binary', self.mmcv, mmcv) is None and where:
            say(f'mmcv: MMCV_WHEELS={where} has no wheel of {mmcv} for this Python')

    def _build_anew(self, folder, mmcv):  # pip's cache had it without ops, or for another torch
        run(self.python, '-m', 'pip', 'cache', 'remove', self.mmcv)
        self._build(folder, mmcv)

    def _build(self, folder, mmcv):
        path = os.pathsep.join([str(self.python.parent), os.environ['PATH']])  # finds ninja
        env = {'MAX_JOBS': str(os.cpu_count()), **os.environ, 'MMCV_WITH_OPS': '1', 'PATH': path}
        cuda = (run(self.python, '-c', CUDA) or '').strip()
        env.setdefault('FORCE_CUDA', str(int(cuda == 'build')))
        if env['FORCE_CUDA'] == '0':
            env['CUDA_VISIBLE_DEVICES'] = ''  # a visible GPU alone makes mmcv want nvcc
            if cuda:
                wheels = "MMCV_WHEELS= with OpenMMLab's wheels for torch 2.1 and CUDA 12.1, or "
                say(
                    f'warning: a GPU, but no nvcc of CUDA {cuda}: the ops will run on the CPU '
                    f'alone; give {wheels if self.lane == "paper" else ""}the CUDA toolkit {cuda}'
                )
        say("mmcv: no prebuilt wheel; compiling takes 10 to 30 min, unless pip's cache has it")
        pip = (self.python, '-m', 'pip', 'wheel', '-v', '--no-deps', '-w', folder)
        follow((*pip, '--no-binary', self.mmcv, '--no-build-isolation', mmcv), env,
               self.made / 'mmcv-log.txt')  # fmt: skip

    def _install(self, what, *arguments):
        command = ('pip', 'install', '--python', self.python, *arguments)
        if self._uv(*command, '--offline') is not None:  # all of it is in uv's cache
            return
        say(f'{what}: fetching what the cache of uv lacks')
        if run(self.dev / 'bin' / 'uv', *command, env=self.env, quiet=False) is None:
            raise EnvError(f'{what}: uv failed as said above; mend it (network, index of pip), '
                           'then run this again: it goes on from here')  # fmt: skip

    def _uv(self, *command, **more):
        return run(self.dev / 'bin' / 'uv', *command, env={**self.env, **more})

    def _version(self, python):
        script = 'import sys; print("%d.%d" % sys.version_info[:2])'
        return (run(python, '-c', script) or '').strip()


def follow(command, env, log):
    """Compiles mmcv: one updating line on a terminal, else one a minute; the output goes to `log`.

    Raises:
        EnvError: It failed; the telling lines of the log have been shown.
    """
    begun, last, terminal = None, time.monotonic(), sys.stderr.isatty()
    with open(log, 'w', encoding='utf-8') as out, subprocess.Popen(
        [str(part) for part in command], env=env, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace',
    ) as process:  # fmt: skip
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
        compiler = shutil.which(env.get('CXX', 'c++'))
        lack = 'Python.h is missing (pythonX.Y-dev)' if 'Python.h' in ''.join(errors) else ''
        lack = lack if compiler else 'there is no C++ compiler (build-essential)'
        raise EnvError(f'mmcv: not compiled{lack and "; "}{lack}; the whole log is {log}')


def choose(folder):
    """Returns the environment to take where LANE= names none, and why."""
    try:
        python = Environment('paper', folder or '.venv-paper').find_python()
        return 'paper', f'with {python}'
    except EnvError as error:
        Environment('modern', folder or '.venv-modern').find_python()
        return 'modern', str(error).partition(';')[0]


def _hash(*made_from):
    return hashlib.sha256(repr(made_from).encode()).hexdigest()[:12]


def main():
    """Parses the arguments, makes the environment, turns what fails into one line."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('lane', help=', '.join([*LANES, 'choose']))
    parser.add_argument('--full', action='store_true', help='mmcv with compiled ops, not mmcv-lite')
    parser.add_argument('--venv', help='its folder (default: .venv-LANE)')
    args = parser.parse_args()
    try:
        if args.lane not in (*LANES, 'choose'):
            raise EnvError(f'there is no LANE={args.lane}; there are: {" ".join(LANES)}')
        if args.lane == 'choose':
            lane, why = choose(args.venv)
            say(f'LANE={lane}: {why}')
            return print(lane)
        Environment(args.lane, args.venv or f'.venv-{args.lane}').make(args.full)
    except EnvError as error:
        say(f'error: {error}')
        sys.exit(2)
    except KeyboardInterrupt:
        say('interrupted; the next run goes on from here')
        sys.exit(130)


if __name__ == '__main__':
    main()

"""Makes a virtual environment with uv, from its lock: env.py LANE FOLDER [full].

Where LANE= is empty that is `paper` if its Python can be had, else `modern`; which one is printed.
With OpenMMLab comes mmcv-lite or, with `full`, mmcv with its ops: the two own the same files.
"""

import ast
import fcntl
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from zipfile import ZipFile

say = partial(print, file=sys.stderr)
ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS, DEV_UV = ROOT / 'requirements', ROOT / '.venv-dev/bin/uv'
MMCV = {'paper': 'mmcv', 'modern': 'onedl-mmcv'}  # what has the ops
OPS_WORK = """import sys; sys.path.insert(0, sys.argv[1]); import torch; from mmcv.ops import nms
boxes, scores = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8]]), torch.tensor([0.8, 0.9])
assert nms(boxes, scores, 0.5)[1].tolist() == [1]"""
# Runs what may compile: all it says to a log, how far it is to the person.
FOLLOW = r"""set -o pipefail; "$@" 2>&1 | tee "$0" |
sed -nu 's/.*\[\([0-9]*\)\/\([0-9]*\)\] .*/mmcv: compiled \1 of \2 files/p' >&2"""
PIP_TO_UV = {  # what pip's configuration calls it, and uv
    **{'index-url': 'UV_DEFAULT_INDEX', 'trusted-host': 'UV_INSECURE_HOST', 'proxy': 'ALL_PROXY'},
    **{'extra-index-url': 'UV_INDEX', 'find-links': 'UV_FIND_LINKS', 'timeout': 'UV_HTTP_TIMEOUT'},
    **{'no-index': 'UV_NO_INDEX', 'client-cert': 'SSL_CLIENT_CERT', 'constraint': 'UV_CONSTRAINT'},
    **{'cert': 'SSL_CERT_FILE', 'default-timeout': 'UV_HTTP_TIMEOUT', 'retries': 'UV_HTTP_RETRIES'},
}


def run(*command, quiet=True):
    """Returns what the command prints, or None if it fails; shown instead unless `quiet`."""
    to = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) if quiet else {}
    try:
        done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, text=True, **to)
    except OSError:
        return None
    return None if done.returncode else (done.stdout or '').strip()


def version_of(python):
    return run(python, '-c', 'import sys; print("%d.%d" % sys.version_info[:2])')


def variables(pip_config):
    """Returns the environment variables for uv: the user's, and what `pip config list` says."""
    found = {}
    for section in ('global', 'install', ':env:'):  # the later wins, as with pip
        for name, value in re.findall(rf'(?m)^{section}\.(\S+?)=(.*)', pip_config):
            words = ast.literal_eval(value).split()
            if name in PIP_TO_UV and words:
                found[PIP_TO_UV[name]] = (',' if name == 'find-links' else ' ').join(words)
    pyenv = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv')).glob('versions/*/bin')
    path = os.pathsep.join([os.environ.get('PATH', ''), *map(str, sorted(pyenv))])
    return {**found, **os.environ, 'PATH': path}


class Environment:
    """A virtual environment; ops.txt in its folder says which mmcv it has in place of mmcv-lite."""

    def __init__(self, lane, folder):
        self.lane, self.folder = lane, Path(folder or f'.venv-{lane}').absolute()
        self.python, self.ops = self.folder / 'bin/python', self.folder / 'ops.txt'
        text = (REQUIREMENTS / f'{lane}.txt').read_text()
        takes, pins = re.search('(?m)^# python: (.*)\n-c (.*)', text).groups()
        self.takes, self.pins = takes.split(), REQUIREMENTS / pins
        self.lock = (REQUIREMENTS / f'locks/{lane}.txt').read_text()
        installed, pinned = (run(uv, '--version') or '' for uv in ('uv', DEV_UV))
        self.uv = 'uv' if installed.split('.')[:2] == pinned.split('.')[:2] else DEV_UV

    def create(self):
        """Makes it, of PYTHON=, a Python that is here, or one that uv fetches; returns why not."""
        given, own = os.environ.get('PYTHON'), version_of(self.python)
        if own in self.takes and (not given or version_of(given) == own):
            return
        search = (self.uv, 'python', 'find', '--system', '--no-python-downloads')
        found = (run(*search, name) for name in ([given] if given else self.takes))
        fits = (python for python in found if version_of(python) in self.takes)
        python = next(fits, '' if given else self.takes[0])  # uv fetches that one
        # A folder whose Python does not run is what a vanished interpreter left.
        clear = ('--clear',) if not own and (self.folder / 'pyvenv.cfg').exists() else ()
        venv = ('env', 'UV_HTTP_RETRIES=1', self.uv, 'venv', *clear, '--python', python)
        if not python or run(*venv, self.folder) is None:
            some = ' or '.join(self.takes)
            return f'no Python {some} for {self.folder}; give one as PYTHON=, or another VENV='

    def install(self, full):
        """Brings it to the lock; `full` wants mmcv's ops, else either mmcv will do."""
        torch, wheels = re.search('torch==[0-9.]+|$', self.lock)[0], os.getenv('MMCV_WHEELS', '')
        ops = self.ops.read_text() if self.ops.exists() else ''
        self._sync(ops if torch in ops else '')
        if full and self.lane in MMCV and not (torch in ops and wheels in ops):
            ops = self._try_ops(torch, wheels)
            self.ops.write_text(ops)
            self._sync(ops, '--reinstall-package', MMCV[self.lane])

    def _sync(self, ops, *options):
        lock, begun = self.lock, self.folder / 'begun.txt'
        lock += f'\n-e {ROOT.as_uri()}\n' if self.lane != 'dev' else ''
        if ops:
            lock = lock.replace(re.search(r'(?m)^mmcv-lite==(.*\\\n)+.*', lock)[0], ops)
        if begun.exists():  # killed: half a package may be there, which uv takes for a whole one
            options += ('--reinstall',)
        begun.touch()
        wanted = self.folder / 'lock.txt'
        wanted.write_text(lock)
        command = (self.uv, 'pip', 'install', '--no-deps', '-p', self.python, '-r', wanted)
        command += ('--exact', *options)
        failed = run(*command, '--offline') is None and run(*command, quiet=False) is None
        begun.unlink()
        if failed:
            raise SystemExit('error: mend what uv says (network, index of pip), and run this again')

    def _try_ops(self, torch, wheels):
        """Gets mmcv with ops and tries it outside the environment; returns what asks for it."""
        gpu, nvcc, mmcv = which('nvidia-smi'), which('nvcc'), MMCV[self.lane]
        if gpu and not nvcc and not wheels:
            say("warning: a GPU, but no nvcc on PATH: mmcv's ops will run on the CPU alone; give")
            say("  MMCV_WHEELS= (OpenMMLab's, of torch 2.1 and CUDA 11.8 or 12.1) or install nvcc")
            os.environ['CUDA_VISIBLE_DEVICES'] = ''  # a visible GPU alone makes mmcv want nvcc
        os.environ['PATH'] = f'{self.python.parent}{os.pathsep}{os.environ["PATH"]}'  # has ninja
        say('mmcv: compiling takes 10 to 30 min, unless there is a wheel of it')
        log, kept = self.folder / 'mmcv-log.txt', self.folder / 'ops'
        with TemporaryDirectory(dir=self.folder) as tried:
            # Pip makes the wheel, and keeps it in its cache: uv makes none without installing it.
            pip = (self.python, '-m', 'pip', 'wheel', '-v', '--no-deps', '--no-build-isolation')
            pip += ('-c', self.pins, '-w', tried, mmcv, *(['--find-links', wheels] * bool(wheels)))
            if run('bash', '-c', FOLLOW, log, *pip, quiet=False) is None:
                say('\n'.join(log.read_text().splitlines()[-20:]))
                what = 'it needs a C++ compiler and Python.h (build-essential, python3-dev)'
                raise SystemExit(f'error: mmcv was not compiled; {what}; the whole log is {log}')
            (wheel,) = Path(tried).glob('*.whl')
            ZipFile(wheel).extractall(tried)
            if run(self.python, '-c', OPS_WORK, tried) is None:
                what = f'see {log}, then: {self.python} -m pip cache remove {mmcv}'
                raise SystemExit(f'error: the ops of mmcv {wheels} do not run; {what}')
            kept.mkdir(exist_ok=True)
            wheel = wheel.replace(kept / wheel.name)
        return f'# {torch} {wheels}\n{mmcv} @ {wheel.as_uri()}'


def main(lane, folder, full=''):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback; the next run goes on
    os.environ.update(variables(run(sys.executable, '-m', 'pip', 'config', 'list') or ''))
    with open(ROOT / '.venv.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one run at a time
        for name in [lane] if lane else ['paper', 'modern']:
            environment = Environment(name, folder)
            if not (lacks := environment.create()):
                environment.install(full)
                return print(name)
            say(f'{name}: {lacks}')
    sys.exit(2)


if __name__ == '__main__':
    main(*sys.argv[1:])

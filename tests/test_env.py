"""The script of the environments: which Python it takes, what pip's configuration says to uv."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / 'tools' / 'dev'))
import env  # noqa: E402

LOCKS = ROOT / 'requirements' / 'locks'
# A small lock, of pure Python.
SMALL = re.search(r'^colorlog==(.*\\\n)+.*', (LOCKS / 'dev.txt').read_text(), re.MULTILINE)[0]


def needs_uv():
    """Skips where the tests run without make, which brings uv."""
    if not (ROOT / '.venv-dev' / 'bin' / 'uv').exists():
        pytest.skip('no uv in .venv-dev: make dev')


class Small(env.Environment):
    """The newest torch's environment, of one small package and for the running Python."""

    def __init__(self, folder, **variables):
        super().__init__('torch-newest', folder)
        self.folder.parent.mkdir(exist_ok=True)
        self.lock = self.folder.parent / 'lock.txt'
        self.lock.write_text(SMALL)
        self.takes = ['{}.{}'.format(*sys.version_info)]
        self.uv('--version')  # reads pip's configuration
        self.env = {**self.env, 'UV_HTTP_RETRIES': '0', **variables}

    def find_python(self):
        return sys.executable

    def _install(self, *arguments):
        if '-e' not in arguments:  # the project: its build needs more than the small lock has
            super()._install(*arguments)


@pytest.fixture
def small(tmp_path):
    needs_uv()
    return lambda **variables: Small(tmp_path / 'made' / 'venv', **variables)


def has_colorlog(environment):
    return env.run(environment.python, '-c', 'import colorlog') is not None


def test_a_fresh_environment_is_made_offline_from_the_cache(small, tmp_path):
    Small(tmp_path / 'first' / 'venv').make()  # fills the cache
    environment = small(UV_OFFLINE='1')
    environment.make()
    assert has_colorlog(environment)
    assert env.run(environment.python, '-m', 'pip', '--version') is None  # of the lock alone


def test_an_interrupted_run_is_completed_by_the_next(small, monkeypatch):
    environment = small()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, '_install', interrupted)
    with pytest.raises(KeyboardInterrupt):
        environment.make()
    assert environment.python.exists() and not has_colorlog(environment)
    environment = small()
    environment.make()
    assert has_colorlog(environment)
    monkeypatch.setattr(environment, '_install', interrupted)  # nothing is left to do
    environment.make()


def test_a_changed_lock_is_noticed(small, monkeypatch):
    environment = small()
    environment.make()
    asked = []
    environment.lock.write_text(SMALL + '\n# changed\n')
    monkeypatch.setattr(environment, '_install', lambda what, *_: asked.append(what))
    environment.make()
    assert asked == ['sync', 'install']


def test_what_vanished_under_an_environment_is_put_back(small):
    environment = small()
    environment.make()
    environment.python.unlink()
    environment.python.symlink_to('/nowhere/python')
    environment.make()
    assert has_colorlog(environment)


def test_a_wrong_index_is_one_line_after_what_uv_says(small, tmp_path, capfd):
    environment = small(
        UV_CACHE_DIR=str(tmp_path / 'cache'), UV_DEFAULT_INDEX='http://127.0.0.1:9/simple',
        UV_FIND_LINKS='', UV_INDEX='',
    )  # fmt: skip
    with pytest.raises(env.EnvError, match='mend it') as error:
        environment.make()
    assert '\n' not in str(error.value)
    assert '127.0.0.1:9' in capfd.readouterr().err
    assert environment.note.read_text() == 'unfinished'


def test_a_file_that_is_not_the_lock_s_is_refused(small):
    environment = small()
    environment.lock.write_text(re.sub('sha256:....', 'sha256:0000', SMALL))
    with pytest.raises(env.EnvError):
        environment.make()


def test_two_runs_at_once_wait_for_each_other(small):
    environment = small()
    script = (
        f'import sys; sys.path[:0] = [{str(ROOT / "tests")!r}]; from pathlib import Path\n'
        f'from test_env import Small; Small(Path({str(environment.folder)!r})).make()'
    )
    runs = [subprocess.Popen([sys.executable, '-c', script]) for _ in range(3)]
    assert [run.wait() for run in runs] == [0, 0, 0]
    assert has_colorlog(environment)


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    folder = tmp_path / 'thesis'
    folder.mkdir()
    (folder / 'thesis.tex').write_text('x')
    with pytest.raises(env.EnvError, match='no virtual environment'):
        env.Environment('paper', folder).make()
    assert os.listdir(folder) == ['thesis.tex']


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine with nothing but this Python, where uv cannot fetch another."""
    needs_uv()
    monkeypatch.setenv('PYENV_ROOT', str(tmp_path))
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setenv('UV_PYTHON_INSTALL_DIR', str(tmp_path / 'pythons'))
    monkeypatch.setenv('UV_PYTHON_DOWNLOADS', 'never')
    monkeypatch.delenv('PYTHON', raising=False)
    monkeypatch.delenv('VIRTUAL_ENV', raising=False)
    return tmp_path


def test_no_fitting_python_is_one_line(bare, capfd):
    with pytest.raises(env.EnvError, match=r'no Python 3.10 or .* for the paper environment') as e:
        env.Environment('paper', bare / 'venv').make()
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('python', ['nowhere', sys.executable])
def test_a_python_that_does_not_fit_is_one_line(bare, monkeypatch, python):
    monkeypatch.setenv('PYTHON', python)
    environment = env.Environment('paper', bare / 'venv')
    environment.takes = ['3.99']
    with pytest.raises(env.EnvError, match=r'does not run or is not 3\.99'):
        environment.make()


def test_without_a_python_for_paper_the_modern_one_is_taken_and_said(bare, monkeypatch):
    def find(self):
        if self.lane == 'paper':
            raise env.EnvError('no Python 3.10; install one')
        return sys.executable

    monkeypatch.setattr(env.Environment, 'find_python', find)
    assert env.choose('') == ('modern', 'no Python 3.10')


def test_an_unknown_environment_is_one_line_that_names_them():
    script = ROOT / 'tools' / 'dev' / 'env.py'
    done = subprocess.run([sys.executable, script, 'papper'], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == f'error: there is no LANE=papper; there are: {" ".join(env.LANES)}\n'


def test_pip_s_configuration_is_translated(monkeypatch):
    for name in env.PIP_TO_UV.values():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('UV_HTTP_TIMEOUT', '7')  # the user's own word for uv wins
    found = env.variables(
        ":env:.find-links='/a /b'\n:env:.default-timeout='180'\nglobal.cert='/c.pem'\n"
        "global.index-url='http://one/simple'\ninstall.index-url='http://two/simple'\n"
        "global.extra-index-url='\\nfile:///x\\nfile:///y'\nglobal.proxy='http://p:1'\n"
        "install.retries='9'\nglobal.constraint='/c.txt'\n"
    )
    assert {name: found.get(name) for name in env.PIP_TO_UV.values()} == {
        'UV_DEFAULT_INDEX': 'http://two/simple',
        'UV_INDEX': 'file:///x file:///y',
        'UV_FIND_LINKS': '/a,/b',
        'SSL_CERT_FILE': '/c.pem',
        'ALL_PROXY': 'http://p:1',
        'UV_HTTP_TIMEOUT': '7',
        'UV_HTTP_RETRIES': '9',
        'UV_CONSTRAINT': '/c.txt',
        **dict.fromkeys(('UV_NO_INDEX', 'UV_INSECURE_HOST', 'SSL_CLIENT_CERT')),
    }


def test_a_failed_compilation_shows_cause_and_end_of_its_log(tmp_path, capfd):
    lines = 'for n in range(50): print("x.cpp: Error: no such header" if n == 7 else n)'
    command = [sys.executable, '-c', f'{lines}\nraise SystemExit(3)']
    with pytest.raises(env.EnvError, match=r'mmcv: not compiled.*log\.txt'):
        env.follow(command, dict(os.environ), tmp_path / 'log.txt')
    shown = capfd.readouterr().err
    assert '| x.cpp: Error: no such header\n' in shown
    assert '| 49\n' in shown and '| 39\n' not in shown


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch, tmp_path, capfd):
    clock = iter([0, 0, 600, 610, 1200])
    monkeypatch.setattr(env.time, 'monotonic', lambda: next(clock))
    lines = 'for n in (1, 21, 22, 41): print(f"[{n}/77] c++ x.cpp")'
    env.follow([sys.executable, '-c', lines], dict(os.environ), tmp_path / 'log.txt')
    assert capfd.readouterr().err.splitlines() == [
        'mmcv: compiled 21 of 77 files, about 28 min left',
        'mmcv: compiled 41 of 77 files, about 18 min left',
    ]


@pytest.fixture
def ops(tmp_path, monkeypatch):
    """An environment whose packages are there, and a pip that gives a wheel with these files."""
    environment = env.Environment('paper', tmp_path / 'venv')
    environment.folder.mkdir()
    environment.python = sys.executable
    monkeypatch.setattr(environment, '_create', lambda: None)
    monkeypatch.setattr(environment, '_install', lambda *_: None)
    monkeypatch.setattr(env, 'run', lambda *_, **__: None)  # no cache of pip is touched
    monkeypatch.delenv('MMCV_WHEELS', raising=False)
    environment.compiled = []

    def compile(*command):
        environment.compiled.append(command)
        with zipfile.ZipFile(f'{command[command.index("-w") + 1]}/mmcv-2.1.0.whl', 'w') as wheel:
            wheel.writestr('mmcv/__init__.py', '')

    monkeypatch.setattr(environment, '_compile', compile)
    return environment


def lock_of(environment):
    return (environment.folder / 'lock.txt').read_text()


def test_ops_that_do_not_run_leave_the_environment_as_it_was(ops):
    with pytest.raises(env.EnvError, match='do not run'):
        ops.make(full=True)
    assert len(ops.compiled) == 2  # what pip's cache had, and anew
    assert sorted(os.listdir(ops.folder)) == ['lock.txt', 'made-from.txt']
    assert lock_of(ops) == ops.lock.read_text()


def test_mmcv_takes_the_place_of_mmcv_lite_and_wheels_named_later_that_of_mmcv(ops, monkeypatch):
    monkeypatch.setattr(env, 'run', lambda *_, **__: '')  # the ops run
    ops.make(full=True)
    (wheel,) = ops.folder.glob('ops-*/*.whl')
    assert f'\nmmcv @ {wheel.as_uri()}\n' in lock_of(ops) and 'mmcv-lite' not in lock_of(ops)
    ops.make(full=True)
    ops.make()
    assert len(ops.compiled) == 1
    monkeypatch.setenv('MMCV_WHEELS', '/wheels')
    ops.make()  # either mmcv will do
    assert len(ops.compiled) == 1 and wheel.exists()
    ops.make(full=True)
    ops.make(full=True)
    assert len(ops.compiled) == 2 and '/wheels' in ops.compiled[1]
    (other,) = ops.folder.glob('ops-*/*.whl')
    assert other != wheel and other.as_uri() in lock_of(ops)


@pytest.mark.parametrize(('release', 'fits'), [('0.13.99', True), ('0.12.0', False)])
def test_an_installed_uv_of_the_pinned_release_is_used(tmp_path, monkeypatch, release, fits):
    installed = tmp_path / 'uv'
    installed.write_text(f'#!/bin/sh\necho uv {release}\n')
    installed.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path))
    assert env.which_uv() == (str(installed) if fits else env.DEV / 'uv')

"""The script of the environments: which Python it takes, what pip's configuration says to uv."""

import os
import re
import subprocess
import sys
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
        self.env = {**self.env, 'UV_HTTP_RETRIES': '0', **variables}

    def find_python(self):
        return sys.executable

    def _install_project(self):
        pass


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
    assert asked == ['torch-newest']


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
    assert not list(environment.made.glob('packages.*'))


def test_a_file_that_is_not_the_lock_s_is_refused(small):
    environment = small()
    environment.lock.write_text(re.sub('sha256:....', 'sha256:0000', SMALL))
    with pytest.raises(env.EnvError):
        environment.make()


def test_two_runs_at_once_wait_for_each_other(small):
    first = small()
    first.made.mkdir(parents=True)
    first.folder.joinpath('pyvenv.cfg').write_text('home = /nowhere\n')
    lock = open(f'{first.folder}.lock', 'w')  # noqa: SIM115
    env.fcntl.flock(lock, env.fcntl.LOCK_EX)
    script = f'import fcntl; fcntl.flock(open({lock.name!r}, "w"), fcntl.LOCK_EX); print("in")'
    other = subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        other.wait(1)
    lock.close()
    first.make()
    assert other.communicate()[0] == 'in\n' and has_colorlog(first)


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


@pytest.mark.parametrize(
    ('python', 'says'), [('nowhere', 'does not run'), (sys.executable, 'takes 3.99')]
)
def test_a_python_that_does_not_fit_is_one_line(bare, monkeypatch, python, says):
    monkeypatch.setenv('PYTHON', python)
    environment = env.Environment('paper', bare / 'venv')
    environment.takes = ['3.99']
    with pytest.raises(env.EnvError, match=says):
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
    )
    assert {name: found.get(name) for name in env.PIP_TO_UV.values()} == {
        'UV_DEFAULT_INDEX': 'http://two/simple',
        'UV_INDEX': 'file:///x file:///y',
        'UV_FIND_LINKS': '/a,/b',
        'SSL_CERT_FILE': '/c.pem',
        'ALL_PROXY': 'http://p:1',
        'UV_HTTP_TIMEOUT': '7',
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


def test_wheels_named_later_are_tried(tmp_path, monkeypatch):
    environment = env.Environment('paper', tmp_path / 'venv')
    done = []
    environment.made.mkdir(parents=True)
    (environment.folder / 'pyvenv.cfg').touch()
    monkeypatch.setattr(environment, '_create', lambda: None)
    for step in ('_install_packages', '_install_ops', '_install_project'):
        monkeypatch.setattr(environment, step, lambda step=step: done.append(step))
    monkeypatch.delenv('MMCV_WHEELS', raising=False)
    environment.make(full=True)
    assert done == ['_install_packages', '_install_ops', '_install_project']
    environment.make(full=True)
    environment.make()
    assert len(done) == 3
    monkeypatch.setenv('MMCV_WHEELS', '/wheels')
    environment.make(full=True)
    environment.make(full=True)
    assert done[3:] == ['_install_ops']

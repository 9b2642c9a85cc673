"""The script of the environments: which Python it takes, what pip's configuration says to uv."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / 'tools' / 'dev' / 'env.py'
sys.path.insert(0, str(SCRIPT.parent))
import env  # noqa: E402

# A small lock, of pure Python.
SMALL = re.search(
    r'^colorlog==(.*\\\n)+.*', (ROOT / 'requirements/locks/dev.txt').read_text(), re.MULTILINE
)[0]
HERE = '{}.{}'.format(*sys.version_info)


@pytest.fixture(scope='module')
def pip_config():
    return env.run(sys.executable, '-m', 'pip', 'config', 'list') or ''


@pytest.fixture(autouse=True)
def variables(monkeypatch, pip_config):
    """What pip's configuration says, as main() sets it."""
    if not (ROOT / '.venv-dev/bin/uv').exists():
        pytest.skip('no uv in .venv-dev: make dev')
    monkeypatch.setattr(env, 'say', print)  # to the stdout that pytest has now
    for name, value in env.variables(pip_config).items():
        monkeypatch.setenv(name, value)
    for name in ('PYTHON', 'VIRTUAL_ENV', 'MMCV_WHEELS'):
        monkeypatch.delenv(name, raising=False)


class Small(env.Environment):
    """An environment of one small package, for the running Python."""

    def __init__(self, folder):
        super().__init__('dev', folder)
        self.lock, self.takes = SMALL, [HERE]


@pytest.fixture
def small(tmp_path):
    return Small(tmp_path / 'venv')


def make(environment):
    assert environment.create() is None
    environment.install(full='')


def has_colorlog(environment):
    return env.run(environment.python, '-c', 'import colorlog') is not None


def test_a_fresh_environment_is_made_offline_from_the_cache(small, tmp_path, monkeypatch):
    make(Small(tmp_path / 'first'))  # fills the cache
    monkeypatch.setenv('UV_OFFLINE', '1')
    make(small)
    assert has_colorlog(small)
    assert env.run(small.python, '-m', 'pip', '--version') is None  # of the lock alone


def test_a_killed_run_is_completed_by_the_next(small, monkeypatch):
    make(small)
    run = env.run
    monkeypatch.setattr(env, 'run', lambda *_, **__: sys.exit('killed'))
    with pytest.raises(SystemExit, match='killed'):
        small._sync('')
    monkeypatch.setattr(env, 'run', run)
    # What a killed uv leaves: the package's record, so that it is taken for whole, and half of it.
    code = 'import colorlog; print(colorlog.__file__)'
    Path(env.run(small.python, '-c', code)).unlink()
    make(small)
    assert env.run(small.python, '-c', code)
    assert not (small.folder / 'begun.txt').exists()


def test_a_changed_lock_is_noticed(small):
    make(small)
    small.lock = '# empty\n'
    make(small)
    assert not has_colorlog(small)


def test_what_vanished_under_an_environment_is_put_back(small):
    make(small)
    small.python.unlink()
    small.python.symlink_to('/nowhere/python')
    make(small)
    assert has_colorlog(small)


def test_a_wrong_index_is_one_line_after_what_uv_says(small, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv('UV_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setenv('UV_DEFAULT_INDEX', 'http://127.0.0.1:9/simple')
    monkeypatch.setenv('UV_HTTP_RETRIES', '0')
    monkeypatch.delenv('UV_INDEX', raising=False)
    monkeypatch.delenv('UV_FIND_LINKS', raising=False)
    with pytest.raises(SystemExit, match='error: mend what uv says') as error:
        make(small)
    assert '\n' not in str(error.value)
    assert '127.0.0.1:9' in capfd.readouterr().err


def test_a_file_that_is_not_the_lock_s_is_refused(small):
    small.lock = re.sub('sha256:....', 'sha256:0000', SMALL)
    with pytest.raises(SystemExit, match='error:'):
        make(small)


def test_two_runs_at_once_wait_for_each_other(small):
    script = (
        f'import sys; sys.path[:0] = [{str(ROOT / "tests")!r}]; import test_env\n'
        'test_env.env.Environment = lambda lane, folder: test_env.Small(folder)\n'
        f'test_env.env.main("dev", {str(small.folder)!r})'
    )
    runs = [subprocess.Popen([sys.executable, '-c', script]) for _ in range(3)]
    assert [run.wait() for run in runs] == [0, 0, 0]
    assert has_colorlog(small)


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    folder = tmp_path / 'thesis'
    folder.mkdir()
    (folder / 'thesis.tex').write_text('x')
    assert 'or another VENV=' in Small(folder).create()
    assert os.listdir(folder) == ['thesis.tex']


def test_an_environment_of_another_python_is_left_alone(small, monkeypatch):
    make(small)
    small.takes = ['3.99']
    monkeypatch.setenv('PYTHON', sys.executable)
    assert 'no Python 3.99' in small.create()
    assert has_colorlog(small)


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine with nothing but this Python, where uv cannot fetch another."""
    for name in ('bash', 'env', 'sh'):
        (tmp_path / name).symlink_to(shutil.which(name))
    for release in ('3.8', '3.9', '3.10', '3.11'):
        (tmp_path / f'python{release}').symlink_to('/nowhere/python')
    monkeypatch.setenv('PYENV_ROOT', str(tmp_path))
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setenv('UV_PYTHON_INSTALL_DIR', str(tmp_path / 'pythons'))
    monkeypatch.setenv('UV_PYTHON_DOWNLOADS', 'never')
    return tmp_path


def test_no_fitting_python_is_one_line(bare):
    lacks = env.Environment('paper', bare / 'venv').create()
    assert lacks.startswith('no Python 3.10 or ') and 'PYTHON=' in lacks and '\n' not in lacks


@pytest.mark.parametrize('python', ['nowhere', sys.executable])
def test_a_python_that_does_not_fit_is_one_line(bare, monkeypatch, python):
    monkeypatch.setenv('PYTHON', python)
    environment = env.Environment('paper', bare / 'venv')
    environment.takes = ['3.99']
    assert environment.create() == (
        f'no Python 3.99 for {bare / "venv"}; give one as PYTHON=, or another VENV='
    )


def test_without_a_python_for_paper_the_modern_one_is_taken_and_said(bare, monkeypatch, capfd):
    monkeypatch.setattr(env.Environment, 'create', lambda self: self.lane == 'paper' and 'no 3.10')
    monkeypatch.setattr(env.Environment, 'install', lambda self, full: None)
    env.main('', '')
    assert capfd.readouterr().out == 'paper: no 3.10\nmodern\n'


def test_with_no_python_for_either_the_run_fails(bare, monkeypatch):
    monkeypatch.setattr(env.Environment, 'create', lambda self: 'none')
    with pytest.raises(SystemExit):
        env.main('', '')


def test_an_unknown_environment_is_one_line_that_names_them():
    make = ['make', '-C', ROOT, 'env', 'LANE=papper']
    done = subprocess.run(make, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r'.*there is no LANE=papper; there are: .*paper.*\n', done.stderr)


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


@pytest.mark.parametrize('status', [0, 3])
def test_what_compiles_is_followed_and_logged(tmp_path, capfd, status):
    lines = 'for n in range(50): print("[21/77] c++ x.cpp" if n == 7 else n)'
    command = [sys.executable, '-c', f'{lines}\nraise SystemExit({status})']
    log = tmp_path / 'log.txt'
    done = env.run('bash', '-c', env.FOLLOW, log, *command, quiet=False)
    assert (done is None) == bool(status)
    assert capfd.readouterr().err == 'mmcv: compiled 21 of 77 files\n'
    assert len(log.read_text().splitlines()) == 50


@pytest.fixture
def ops(tmp_path, monkeypatch):
    """An environment whose packages are there; what it asks of uv and the ops is answered here."""
    environment = env.Environment('paper', tmp_path / 'venv')
    environment.folder.mkdir()
    environment.asked, environment.answers = [], {}

    def run(*command, **_):
        what = 'ops' if env.OPS_WORK in command else 'wheel' if 'wheel' in command else 'sync'
        environment.asked.append(what)
        answer = environment.answers.get(what, '')
        if what == 'wheel' and answer is not None:
            where = Path(command[command.index('-w') + 1])
            with zipfile.ZipFile(where / 'mmcv-2.1.0-cp310.whl', 'w') as wheel:
                wheel.writestr('mmcv/__init__.py', '')
        if what == 'ops':  # tried outside of the environment
            assert Path(command[-1], 'mmcv/__init__.py').exists()
        return answer

    monkeypatch.setattr(env, 'run', run)
    return environment


def lock_of(environment):
    return (environment.folder / 'lock.txt').read_text()


def test_ops_that_do_not_run_leave_the_environment_as_it_was(ops):
    ops.answers['ops'] = None
    with pytest.raises(SystemExit, match='do not run'):
        ops.install(full='full')
    assert ops.asked == ['sync', 'wheel', 'ops']
    assert not ops.ops.exists()


def test_a_failed_compilation_shows_the_end_of_its_log(ops, capfd):
    ops.answers = {'wheel': None}
    (ops.folder / 'mmcv-log.txt').write_text('\n'.join(map(str, range(50))))
    with pytest.raises(SystemExit, match='not compiled') as error:
        ops.install(full='full')
    assert '\n' not in str(error.value)
    shown = capfd.readouterr().out.splitlines()
    assert shown[-1] == '49' and '29' not in shown


def test_mmcv_takes_the_place_of_mmcv_lite_and_wheels_named_later_that_of_mmcv(ops, monkeypatch):
    ops.install(full='full')
    assert f'\nmmcv @ {(ops.folder / "ops").as_uri()}/mmcv-2.1.0-cp310.whl' in lock_of(ops)
    assert 'mmcv-lite' not in lock_of(ops)
    ops.install(full='full')
    ops.install(full='')
    assert ops.asked.count('wheel') == 1
    monkeypatch.setenv('MMCV_WHEELS', 'https://wheels/page')
    ops.install(full='')  # either mmcv will do
    assert ops.asked.count('wheel') == 1
    ops.install(full='full')
    ops.install(full='full')
    assert ops.asked.count('wheel') == 2


def test_ops_of_another_torch_give_way_to_mmcv_lite(ops):
    ops.install(full='full')
    ops.lock = ops.lock.replace('torch==2.1.1', 'torch==2.1.2')
    ops.install(full='')
    assert 'mmcv-lite' in lock_of(ops)


def test_a_gpu_without_a_compiler_is_warned_of_with_the_mend(ops, monkeypatch, capfd):
    monkeypatch.setattr(env, 'which', lambda name: name == 'nvidia-smi')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')
    ops.install(full='full')
    assert 'MMCV_WHEELS=' in capfd.readouterr().out
    assert os.environ['CUDA_VISIBLE_DEVICES'] == ''


@pytest.mark.parametrize(('release', 'fits'), [('0.13.99', True), ('0.12.0', False)])
def test_an_installed_uv_of_the_pinned_release_is_used(tmp_path, monkeypatch, release, fits):
    installed = tmp_path / 'uv'
    installed.write_text(f'#!/bin/sh\necho uv {release}\n')
    installed.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    assert env.Environment('paper', tmp_path).uv == ('uv' if fits else env.DEV_UV)

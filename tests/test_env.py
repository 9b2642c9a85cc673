"""The environment's script: which Python it takes, how it goes on after trouble, what it shows."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

DEV = Path(__file__).parents[1] / 'tools' / 'dev'
sys.path.insert(0, str(DEV))
import env  # noqa: E402

FITS = '#!/bin/sh\necho 3.10\n'
SHIM = '#!/bin/sh\necho "python3.10: command not found, it exists in 3.10.13"\nexit 127\n'
TOO_NEW = '#!/bin/sh\necho 3.12\n'
NO_VENV = '#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; *) echo 3.10;; esac\n'


@pytest.fixture
def find_python(tmp_path):
    """Runs find_python.sh where PATH holds just the given interpreters and the shell's tools."""
    bin_ = tmp_path / 'bin'
    bin_.mkdir()
    for tool in ('bash', 'env'):
        (bin_ / tool).symlink_to(f'/usr/bin/{tool}')

    def run(python='', lane='paper', **interpreters):
        for name, script in interpreters.items():
            path = bin_ / name.replace('_', '.')
            path.write_text(script)
            path.chmod(0o755)
        variables = {'PATH': str(bin_), 'HOME': str(tmp_path), 'PYTHON': python}
        command = [str(DEV / 'find_python.sh'), lane, str(tmp_path / 'venv')]
        done = subprocess.run(command, env=variables, text=True, capture_output=True)
        return done.returncode, done.stdout.strip(), done.stderr.strip()

    return run


def test_a_shim_that_only_prints_an_error_is_passed_over(find_python, tmp_path):
    code, found, _ = find_python(python3_10=SHIM, python3_11=TOO_NEW, python3_9=FITS)
    assert (code, found) == (0, str(tmp_path / 'bin' / 'python3.9'))


def test_pyenv_versions_are_found(find_python, tmp_path):
    python = tmp_path / '.pyenv' / 'versions' / '3.10.99' / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    python.write_text(FITS)
    python.chmod(0o755)
    assert find_python(python3_10=SHIM)[:2] == (0, str(python))


def test_python_variable_wins(find_python, tmp_path):
    mine = tmp_path / 'mine'
    mine.write_text(FITS)
    mine.chmod(0o755)
    assert find_python(str(mine), python3_10=FITS)[:2] == (0, str(mine))


@pytest.mark.parametrize(
    ('python', 'interpreters', 'says'),
    [
        ('nowhere', {}, 'PYTHON=nowhere does not run'),
        ('python3', {'python3': TOO_NEW}, 'is Python 3.12; the paper lane takes 3.10 3.11 3.9 3.8'),
        ('python3', {'python3': NO_VENV}, 'python3.10-venv'),
        ('', {'python3': NO_VENV}, 'python3.10-venv'),
        ('', {'python3': TOO_NEW, 'python3_10': SHIM}, 'no Python for the paper lane found'),
    ],
)
def test_no_usable_python_is_one_line(find_python, python, interpreters, says):
    code, found, error = find_python(python, **interpreters)
    assert (code, found, error.count('\n')) == (2, '', 0)
    assert says in error


def test_each_lane_takes_its_own_pythons(find_python, tmp_path):
    both = dict(python3_10='#!/bin/sh\necho 3.10\n', python3_12=TOO_NEW)
    assert find_python(lane='modern', **both)[1] == str(tmp_path / 'bin' / 'python3.12')
    assert find_python(lane='paper', **both)[1] == str(tmp_path / 'bin' / 'python3.10')


def test_an_unknown_lane_is_one_line_that_names_the_lanes(find_python):
    code, found, error = find_python(lane='papper')
    assert (code, found) == (2, '')
    assert error == 'error: there is no lane papper; there are: ' + ' '.join(env.LANES)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_progress_is_one_line_on_a_terminal(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(env.time, 'monotonic', lambda: next(clock))
    stream = Terminal()
    progress = env.Progress('mmcv', stream)
    notes = env.Notes()
    for n in (1, 2, 4):
        progress.show(notes(f'  [{n}/10] c++ -MMD x.cpp\n'))
    progress.close(done=True)
    shown = stream.getvalue().split('\r\033[K')
    assert shown[1] == 'mmcv: compiled 1 of 10 files'
    assert shown[2].startswith('mmcv: compiled 2 of 10 files, about ')
    assert shown[-1] == 'mmcv: done\n'
    assert ''.join(shown[:-1]).count('\n') == 0


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch):
    clock = iter([0, 10, 50, 61, 70, 130])
    monkeypatch.setattr(env.time, 'monotonic', lambda: next(clock))
    stream = io.StringIO()
    progress = env.Progress('pip', stream)
    for n in range(5):
        progress.show(f'note {n}')
    assert stream.getvalue().splitlines() == ['pip ...', 'pip: note 2', 'pip: note 4']


def test_time_left_is_reckoned_from_the_first_file(monkeypatch):
    clock = iter([0, 600])
    monkeypatch.setattr(env.time, 'monotonic', lambda: next(clock))
    notes = env.Notes()
    notes('[1/77] c++ a.cpp')
    assert notes('[21/77] c++ b.cpp') == 'compiled 21 of 77 files, about 28 min left'


def test_downloads_are_told_in_megabytes():
    notes = env.Notes()
    notes('  Downloading https://host/path/torch-2.1.1-cp310.whl (670.2 MB)\n')
    shown = notes('Progress 335100000 of 670200000\n')
    assert shown == 'downloading torch-2.1.1-cp310.whl, 335 of 670 MB'


def test_a_failed_command_shows_cause_and_end_of_its_log(tmp_path, capfd):
    lines = 'for n in range(50): print("x.cpp: Error: no such header" if n == 7 else n)'
    with pytest.raises(env.EnvError, match=r'mmcv: failed.*log\.txt'):
        env.follow(
            [sys.executable, '-c', f'{lines}\nraise SystemExit(3)'], 'mmcv', tmp_path / 'log.txt'
        )
    shown = capfd.readouterr().err
    assert '| x.cpp: Error: no such header\n' in shown
    assert '| 49\n' in shown and '| 39\n' not in shown
    assert len((tmp_path / 'log.txt').read_text().splitlines()) == 50


@pytest.fixture
def pip_that_says(tmp_path, monkeypatch):
    """An environment whose Python is a script: it says a line and fails, then, later, does not."""
    slept = []
    monkeypatch.setattr(env.time, 'sleep', slept.append)

    def make(line, failures):
        environment = env.Environment('paper', tmp_path)
        environment.made.mkdir()
        environment.python = tmp_path / 'python'
        tried = tmp_path / 'tried'
        environment.python.write_text(
            f'#!/bin/sh\necho x >> {tried}\n'
            f'[ $(wc -l < {tried}) -gt {failures} ] && exit\necho "{line}"\nexit 1\n'
        )
        environment.python.chmod(0o755)
        environment.slept, environment.tries = slept, lambda: len(tried.read_text().split())
        return environment

    return make


@pytest.mark.parametrize(
    'says',
    [
        'WARNING: Connection interrupted while downloading.',
        'error: incomplete-download',
        'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.',
        'pip._vendor.urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool: Read timed out.',
        "WARNING: Retrying (Retry(total=0, connect=None)) after: 'NewConnectionError()'",
    ],
)
def test_a_download_that_breaks_off_is_tried_again(pip_that_says, capfd, says):
    environment = pip_that_says(says, failures=2)
    environment._pip('packages', 'packages', 'install')
    assert environment.tries() == 3
    assert environment.slept == list(env.PAUSES[:2])
    said = capfd.readouterr().err
    assert 'packages: the network or the index failed; trying again in 15 s' in said


def test_a_network_that_stays_away_ends_in_one_error(pip_that_says):
    environment = pip_that_says('error: incomplete-download', failures=99)
    with pytest.raises(env.EnvError, match=r'packages: failed; the whole log is'):
        environment._pip('packages', 'packages', 'install')
    assert environment.tries() == len(env.PAUSES) + 1


@pytest.mark.parametrize(
    'before', ['', 'WARNING: Retrying (Retry(total=4))' + '\nx.cpp' * 10 + '\n']
)
def test_what_no_waiting_mends_is_not_tried_again(pip_that_says, before):
    """Nor trouble of the network that pip has got over, before something else failed."""
    says = f'{before}ERROR: No matching distribution found for torch==9'
    environment = pip_that_says(says, failures=1)
    with pytest.raises(env.EnvError):
        environment._pip('packages', 'packages', 'install')
    assert (environment.tries(), environment.slept) == (1, [])


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / 'thesis.tex').write_text('x')
    with pytest.raises(env.EnvError, match='no virtual environment'):
        env.Environment('paper', tmp_path).make(full=False)
    assert os.listdir(tmp_path) == ['thesis.tex']


@pytest.fixture
def recorder(tmp_path):
    """A kind of environment whose pip calls are recorded, not run; those in `fails` fail."""

    class Recorded(env.Environment):
        def __init__(self, lane):
            super().__init__(lane, tmp_path / lane)
            self.calls, self.fails, self.has = [], set(), set()

        def _create(self):
            self.made.mkdir(parents=True, exist_ok=True)

        def _pip(self, step, what, *arguments, env=None):
            self.calls.append(step)
            if step in self.fails:
                raise sys.modules['env'].EnvError(step)

        def _has(self, distribution):
            return distribution in self.has

    return Recorded


@pytest.fixture
def recorded(recorder):
    return recorder('paper')


def test_an_interrupted_run_is_completed_by_the_next(recorded):
    recorded.fails = {'packages'}
    with pytest.raises(env.EnvError):
        recorded.make(full=False)
    recorded.fails = {'project'}
    with pytest.raises(env.EnvError):
        recorded.make(full=False)
    assert recorded.calls == ['pip', 'packages', 'pip', 'packages', 'mmcv-in', 'project']
    recorded.fails, recorded.calls = set(), []
    recorded.make(full=False)
    assert recorded.calls == ['project']
    recorded.make(full=False)
    assert recorded.calls == ['project']


def test_changed_pins_are_noticed(recorded, tmp_path, monkeypatch):
    recorded.make(full=False)
    recorded.calls.clear()
    (tmp_path / 'pins.txt').write_text('torch==2.1.2\n')
    monkeypatch.setattr(recorded, 'files', [*recorded.files, tmp_path / 'pins.txt'])
    recorded.make(full=False)
    assert recorded.calls == ['pip', 'packages', 'mmcv-in', 'project']


@pytest.mark.parametrize(
    ('lane', 'steps'),
    [
        ('modern', ['pip', 'packages', 'mmcv-in', 'project']),
        ('torch-newest', ['pip', 'packages', 'project']),
        ('dev', ['pip', 'packages']),
    ],
)
def test_each_lane_gets_what_it_asks_for(recorder, lane, steps):
    environment = recorder(lane)
    environment.make(full=False)
    assert environment.calls == steps


@pytest.mark.parametrize(('lane', 'other'), [('paper', 'modern'), ('modern', 'paper')])
def test_a_lane_depends_on_its_own_files_alone(lane, other):
    names = {path.name for path in env.Environment(lane, 'x').files}
    assert {f'{lane}.txt', f'{lane}-constraints.txt', 'build.txt', 'runtime.txt'} <= names
    assert not {f'{other}.txt', f'{other}-constraints.txt', 'dev.txt'} & names


def test_an_interrupted_swap_is_known_to_have_left_no_mmcv(recorded, monkeypatch):
    recorded.make(full=False)
    monkeypatch.setattr(recorded, '_ops_work', lambda folder=None: False)
    monkeypatch.setattr(recorded, '_prebuilt', lambda folder: 'mmcv.whl')
    recorded.has, recorded.fails, recorded.calls = {'mmcv-lite'}, {'mmcv-in'}, []
    with pytest.raises(env.EnvError):
        recorded.make(full=True)
    assert recorded.calls == ['mmcv-out', 'mmcv-in']
    recorded.has, recorded.fails, recorded.calls = set(), set(), []
    recorded.make(full=False)
    assert recorded.calls == ['mmcv-in']


def test_with_ops_in_place_the_demo_takes_them(recorded, monkeypatch):
    recorded.has = {'mmcv'}
    monkeypatch.setattr(recorded, '_ops_work', lambda folder=None: True)
    recorded.make(full=True)
    recorded.calls.clear()
    recorded.make(full=False)
    assert recorded.calls == []


def test_both_mmcv_packages_at_once_are_mended(recorded, monkeypatch):
    recorded.has = {'mmcv', 'mmcv-lite'}
    recorded.make(full=False)
    assert recorded.calls[2:4] == ['mmcv-out', 'mmcv-in']


def test_the_fork_is_never_beside_mmcv_lite(recorder, monkeypatch):
    modern = recorder('modern')
    modern.has = {'mmcv-lite'}
    installed = []
    monkeypatch.setattr(modern, '_ops_work', lambda folder=None: False)
    monkeypatch.setattr(modern, '_prebuilt', lambda folder: None)
    monkeypatch.setattr(modern, '_build', lambda folder: 'onedl_mmcv.whl')
    monkeypatch.setattr(modern, '_pip', lambda step, what, *args: installed.append((step, args)))
    modern._install_ops()
    (out, removed), (in_, added) = installed
    assert (out, removed) == ('mmcv-out', ('uninstall', '-y', 'mmcv-lite'))
    assert in_ == 'mmcv-in' and added[-1] == 'onedl_mmcv.whl' and '--no-deps' in added


def test_a_half_made_environment_gets_its_python_and_pip(tmp_path):
    (tmp_path / 'pyvenv.cfg').write_text('home = /nowhere\n')
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'python').symlink_to('/nowhere/python')
    environment = env.Environment('paper', tmp_path)
    environment._create()
    assert environment._run('-m', 'pip', '--version')


def test_a_cached_wheel_that_does_not_run_is_built_anew(recorded, monkeypatch, tmp_path):
    wheels, removed = tmp_path / 'wheels', []
    wheels.mkdir()
    runs_here = iter([False, True])

    def pip(step, what, *arguments, env=None):
        assert env['MMCV_WITH_OPS'] == '1'
        recorded.calls.append(step)
        (wheels / 'mmcv-2.1.0-cp310.whl').touch()

    monkeypatch.setattr(recorded, '_pip', pip)
    monkeypatch.setattr(recorded, '_run', lambda *arguments: removed.append(arguments))
    monkeypatch.setattr(recorded, '_runs_here', lambda wheel: next(runs_here))
    assert recorded._build(wheels).exists()
    assert recorded.calls == ['mmcv', 'mmcv']
    assert ('-m', 'pip', 'cache', 'remove', 'mmcv') in removed


def test_a_wheel_without_ops_is_told_from_one_that_has_them(tmp_path):
    environment = env.Environment('paper', tmp_path)
    environment.python = Path(sys.executable)
    wheel = tmp_path / 'mmcv-2.1.0-py3-none-any.whl'
    for nms, runs in (('', False), ('from torchvision.ops import nms as _nms', True)):
        with zipfile.ZipFile(wheel, 'w') as archive:
            archive.writestr('mmcv/__init__.py', '__version__ = "2.1.0"')
            call = 'nms = lambda *a: (None, _nms(*a))' if nms else ''
            archive.writestr('mmcv/ops.py', f'{nms}\n{call}')
        assert environment._runs_here(wheel) is runs

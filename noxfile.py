"""Sessions of environment and task: `make test LANE=modern TASK=backbones` runs modern-backbones.

nox makes no environments here: one holds gigabytes, and mmcv's ops compile for minutes. Each
session completes and uses the one of tools/dev/env.py, which `make` and the person at the
keyboard use too. The tests run in parallel on the cores there are, a file in one process, first
those that are marked `long`; then come those that are marked `alone`, which measure. With
PYTEST_ARGS all run in one process. What a session found is noted for the table of docs/versions.md.
"""

import os
import sys
from pathlib import Path

import nox

TASKS = {
    'attention': ('tests/test_attention', 'tests/test_import.py', 'tests/test_deploy'),
    'backbones': ('tests/test_backbones',),
    'classification': (
        'tests/test_configs/test_classification.py',
        'tests/test_tools/test_train_and_test.py',
    ),
    'module': (
        'tests/test_attention',
        'tests/test_ops',
        'tests/test_benchmark',
        'tests/test_deploy',
        'tests/test_doctor.py',
        'tests/test_import.py',
    ),
    'integrations': ('tests/test_integrations',),
    'kernels': ('tests/test_ops/test_triton.py', 'tests/test_ops/test_triton_compiles.py'),
    'whole': ('tests',),
}
# What of an environment with OpenMMLab needs no compiled ops, in one run.
TASKS['no-ops'] = tuple(
    path for task in ('attention', 'kernels', 'backbones', 'classification') for path in TASKS[task]
)
OPENMMLAB = ('attention', 'backbones', 'classification', 'whole')
LANES = {
    'torch-oldest': ('module',),
    'torch-newest': ('module',),
    'ultralytics': ('integrations',),  # AGPL-3.0, so nowhere else
    'paper': OPENMMLAB,
    'modern': ('kernels', 'no-ops', *OPENMMLAB),  # the Triton of paper is too old for them
}

nox.options.default_venv_backend = 'none'
# What `make test-all` runs: the other sessions are parts of these.
nox.options.sessions = ['lint', *(f'{lane}-{tasks[-1]}' for lane, tasks in LANES.items())]


@nox.session
def lint(session):
    """Rules and layout."""
    session.run(sys.executable, '-m', 'ruff', 'check', '.')
    session.run(sys.executable, '-m', 'ruff', 'format', '--check', '.')


@nox.session(name='triton-versions')
def triton_versions(session):
    """Compiles the kernels with each Triton of requirements/triton-versions.txt; needs no GPU."""
    python = environment(session, 'torch-newest', full=False)
    for line in Path('requirements', 'triton-versions.txt').read_text().splitlines():
        if line.startswith('#'):
            continue
        folder = Path('work_dirs', 'triton', line)  # the wheel alone: torch asks for its own
        pip = ('-m', 'pip', 'install', '-q', '--no-deps', '--upgrade', '--target', folder, line)
        session.run(python, *pip, external=True)
        script = ('tests/test_ops/compile_kernels.py', *session.posargs)
        path = os.pathsep.join([str(folder.absolute()), str(Path.cwd())])
        session.run(python, *script, env={'PYTHONPATH': path}, external=True)


def environment(session, lane, full):
    """Completes an environment; returns its Python."""
    folder = os.environ.get('VENV') or f'.venv-{lane}'
    state = ('full',) if full else ()
    session.run(sys.executable, 'tools/dev/env.py', lane, folder, *state, external=True)
    return str(Path(folder, 'bin', 'python').absolute())


def measuring(paths):
    """The files with tests that are marked `alone`: to collect all others takes a minute."""
    for path in map(Path, paths):
        for file in sorted(path.rglob('test_*.py')) if path.is_dir() else [path]:
            if 'pytest.mark.alone' in file.read_text('utf-8'):
                yield str(file)


def tests_of(lane, task):
    """Makes the session that runs the tests of a task in an environment."""

    def run(session):
        python = environment(session, lane, full=task == 'whole')
        if session.posargs:  # it may be a part of the tests: not noted
            session.run(python, '-m', 'pytest', *TASKS[task], *session.posargs, external=True)
            return
        cores = min(os.cpu_count() or 1, 4)  # a process takes up to 2 GB
        threads = os.environ.get('OMP_NUM_THREADS', str((os.cpu_count() or 1) // cores))
        parallel = ('-n', str(cores), '--dist', 'loadfile', '--no-loadscope-reorder')
        parts = [
            ('', TASKS[task], (*parallel, '-m', 'not alone'), {'OMP_NUM_THREADS': threads}),
            ('-alone', [*measuring(TASKS[task])], ('-m', 'alone'), {}),
        ]
        reports, failed = [], False
        for name, paths, options, env in parts:
            report = Path('work_dirs', 'tests', f'{session.name}{name}.xml')
            report.unlink(missing_ok=True)
            if not paths:
                continue
            command = ('pytest', *paths, *options, '--junitxml', report)
            try:
                session.run(python, '-m', *command, env=env, external=True)
            except nox.command.CommandFailed:
                failed = True
            reports += [report] if report.exists() else []
        session.run(python, 'tools/dev/run_record.py', 'note', *reports, external=True)
        if failed:
            session.error('tests failed')

    return run


for lane, tasks in LANES.items():
    for task in tasks:
        name = f'{lane}-{task}'
        nox.session(tests_of(lane, task), name=name)

"""What a tool's user sees when something goes wrong."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from scsa.cli import UserError, existing, needs, run

ROOT = Path(__file__).parents[1]


def ends_with(error):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run(main)
    return stop.value.code


def test_user_error_is_one_line(capsys):
    assert ends_with(UserError('no such\n  thing; make one')) == 2
    assert capsys.readouterr().err == 'error: no such thing; make one\n'


def test_refused_file_is_one_line(capsys, tmp_path):
    def main():
        (tmp_path / 'nowhere').read_text()

    with pytest.raises(SystemExit) as stop:
        run(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith('error: [Errno 2] No such file')


def test_interrupt(capsys):
    assert ends_with(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('error', [UserError('no'), KeyboardInterrupt()])
def test_debug_shows_the_traceback(capsys, monkeypatch, error):
    monkeypatch.setenv('SCSA_DEBUG', '1')
    ends_with(error)
    assert capsys.readouterr().err.startswith('Traceback')


def test_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)


def test_existing(tmp_path):
    assert existing(str(tmp_path), 'folder', 'make it') == tmp_path
    with pytest.raises(UserError, match=r'^list not found: .*x\.txt; set --list$'):
        existing(tmp_path / 'x.txt', 'list', 'set --list')


def test_a_package_that_is_not_installed():
    needs('pytest', 'pytest')
    with pytest.raises(UserError, match=r'^no-such is not installed: pip install no-such$'):
        needs('no_such', 'no-such')


@pytest.mark.parametrize(
    ('module', 'mend'),
    [
        ('mmengine', 'mmengine is not installed: `make env`'),
        ('mmcv._ext', 'mmcv is here without its compiled operators: `make env-full`'),
        ('sklearn.datasets', 'sklearn is not installed: pip install scikit-learn'),
    ],
)
def test_a_tool_without_what_it_imports_is_one_line(capsys, module, mend):
    assert ends_with(ModuleNotFoundError('No module', name=module)) == 2
    line = capsys.readouterr().err
    assert line.startswith(f'error: {mend}') and line.count('\n') == 1


def test_a_module_of_ours_that_is_missing_is_a_bug():
    with pytest.raises(ModuleNotFoundError):
        run(lambda: importlib.import_module('scsa.none'))


@pytest.mark.parametrize(
    ('tool', 'count'), [('train.py', 1), ('test.py', 2), ('infer.py', 3), ('deploy/onnx.py', 2)]
)
def test_a_tool_without_openmmlab_is_one_line(tool, count):
    arguments = ['configs/quickstart/resnet18_digits.py', 'none.pth', 'images'][:count]
    hidden = (
        'import runpy, sys\n'
        'sys.modules.update(dict.fromkeys(["mmengine", "mmcv", "mmpretrain", "mmdet", "mmseg"]))\n'
        f'sys.argv = {[tool, *arguments]}\n'
        f'sys.path.insert(0, "tools")\nrunpy.run_path("tools/{tool}", run_name="__main__")'
    )
    done = subprocess.run([sys.executable, '-c', hidden], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        ('error: mmengine is not installed: `make env`', 'error: mmcv is not installed: `make env`')
    )

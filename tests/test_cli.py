"""What a tool's user sees when something goes wrong."""

from __future__ import annotations

import pytest

from scsa.cli import UserError, existing, needs, run


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

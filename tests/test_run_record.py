"""The record of what was run, and the table made from it."""

import json
import sys
from pathlib import Path

import pytest

DEV = Path(__file__).parents[1] / 'tools' / 'dev'
sys.path.insert(0, str(DEV))
import run_record as matrix  # noqa: E402

REPORT = """<testsuites><testsuite tests="9" failures="1" errors="1" skipped="2" time="90.4"/>
</testsuites>"""


@pytest.fixture
def notes(tmp_path, monkeypatch):
    monkeypatch.setattr(matrix, 'NOTES', tmp_path / 'work_dirs' / 'runs.jsonl')
    return matrix.NOTES


def test_a_session_is_noted_with_its_versions_and_counts(notes, tmp_path):
    report = tmp_path / 'paper-whole.xml'
    report.write_text(REPORT)
    alone = tmp_path / 'paper-whole-alone.xml'
    alone.write_text('<testsuite tests="1" failures="0" errors="0" skipped="0" time="9"/>')
    matrix.note(report, alone)
    (run,) = matrix.runs(notes)
    assert (run['session'], run['passed'], run['skipped'], run['failed']) == (
        'paper-whole',
        6,
        2,
        2,
    )
    assert run['seconds'] == 99 and run['packages']['torch']
    row = matrix.table([run]).splitlines()[-1]
    assert row.startswith('| paper-whole | 3.') and '| 6 | 2 | 2 |' in row


def test_the_newest_run_of_a_session_counts(notes, tmp_path):
    def run(session, date, passed):
        return json.dumps(dict(session=session, date=date, passed=passed))

    notes.parent.mkdir()
    notes.write_text(run('modern-whole', '2026-11-02 10:00', 3))
    record = tmp_path / 'record.jsonl'
    older = [run('modern-whole', '2026-11-01 10:00', 2), run('torch-newest', '2026-10-01 10:00', 1)]
    record.write_text('\n'.join(older))
    found = [(run['session'], run['passed']) for run in matrix.runs(record, notes)]
    assert found == [('torch-newest', 1), ('modern-whole', 3)]


def test_only_the_table_of_the_page_is_replaced():
    page = f'# Versions\n\n{matrix.BEGIN}\nold\n{matrix.END}\n\nafter\n'
    made = matrix.with_table(page, [])
    assert made.startswith('# Versions\n\n') and made.endswith(f'{matrix.END}\n\nafter\n')
    assert 'old' not in made and '| session |' in made
    assert matrix.with_table(made, []) == made


def test_the_page_shows_the_record():
    page = matrix.DOCS.read_text(encoding='utf-8')
    assert matrix.with_table(page, matrix.runs(matrix.RECORD)) == page

"""Keeps the record of the test sessions that were run, and the table of docs/versions.md.

A session of noxfile.py notes what it found under work_dirs/. `make test-matrix` takes the newest
note of each session over into docs/test_runs.jsonl and writes the table from that file.
"""

import argparse
import json
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
NOTES = ROOT / 'work_dirs' / 'tests' / 'runs.jsonl'
RECORD = ROOT / 'docs' / 'test_runs.jsonl'
DOCS = ROOT / 'docs' / 'versions.md'
BEGIN, END = '<!-- test matrix: made by `make test-matrix` -->', '<!-- end of test matrix -->'
OPENMMLAB = (
    *('mmengine', 'mmcv', 'mmcv-lite', 'mmpretrain', 'mmdet', 'mmsegmentation'),
    *('onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain', 'onedl-mmdetection'),
    'onedl-mmsegmentation',
)
ORDER = ('torch', 'ultralytics', 'paper', 'modern')  # the environments' names start so


def note(*reports):
    """Notes the session whose tests left these JUnit reports, run by this Python.

    The first is named for the session.
    """
    roots = [ElementTree.parse(report).getroot() for report in reports]
    suites = [suite for root in roots for suite in root.iter('testsuite')]
    count = {key: sum(int(suite.get(key)) for suite in suites) for key in
             ('tests', 'failures', 'errors', 'skipped')}  # fmt: skip
    failed = count['failures'] + count['errors']
    run = dict(
        session=reports[0].stem,
        date=datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M'),
        commit=commit(),
        python=platform.python_version(),
        packages=installed('torch', 'triton', 'numpy', *OPENMMLAB),
        passed=count['tests'] - failed - count['skipped'],
        skipped=count['skipped'],
        failed=failed,
        seconds=round(sum(float(suite.get('time')) for suite in suites)),
    )
    NOTES.parent.mkdir(parents=True, exist_ok=True)
    with NOTES.open('a', encoding='utf-8') as notes:
        notes.write(json.dumps(run) + '\n')


def commit():
    """Returns the short name of the commit, with a plus where tracked files differ from it."""
    git = ('git', '-C', str(ROOT))
    name = subprocess.run(
        [*git, 'rev-parse', '--short', 'HEAD'], stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    return name + '+' * (subprocess.run([*git, 'diff', '--quiet', 'HEAD']).returncode != 0)


def installed(*names):
    """Returns the versions of those distributions that are there."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def runs(*files):
    """Returns the newest run of each session."""
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    newest = {}
    for run in sorted(map(json.loads, lines), key=lambda run: run['date']):
        newest[run['session']] = run
    return sorted(newest.values(), key=lambda run: (ORDER.index(run['session'].split('-')[0]),
                                                    run['session']))  # fmt: skip


def table(found):
    """Lays runs out in Markdown."""
    rows = [
        '| session | Python | torch, Triton, numpy | OpenMMLab | passed | skipped | failed | run |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for run in found:
        packages = dict(run['packages'])
        numbers = ', '.join(packages.pop(name, 'none') for name in ('torch', 'triton', 'numpy'))
        openmmlab = ', '.join(f'{name} {version}' for name, version in packages.items())
        cells = (
            *(run['session'], run['python'], numbers, openmmlab or 'none'),
            *(run[key] for key in ('passed', 'skipped', 'failed')),
            f'{run["date"][:10]}, {run["commit"]}, {run["seconds"] / 60:.0f} min',
        )
        rows.append('| ' + ' | '.join(map(str, cells)) + ' |')
    return '\n'.join(rows)


def with_table(page, found):
    """Returns the page with its table made anew."""
    head, _, rest = page.partition(BEGIN)
    return f'{head}{BEGIN}\n{table(found)}\n{END}{rest.partition(END)[2]}'


def main():
    """Notes a session, or writes record and table."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    does = parser.add_subparsers(dest='does', required=True)
    does.add_parser('note', help='note a session').add_argument('reports', type=Path, nargs='+')
    does.add_parser('write', help='write the record and the table')
    args = parser.parse_args()
    if args.does == 'note':
        return note(*args.reports)
    found = runs(RECORD, NOTES)
    if not found:
        sys.exit('error: no session has been run; `make test` runs one')
    RECORD.write_text(''.join(json.dumps(run) + '\n' for run in found), encoding='utf-8')
    DOCS.write_text(with_table(DOCS.read_text(encoding='utf-8'), found), encoding='utf-8')


if __name__ == '__main__':
    main()

"""The curves of training runs, from logs as mmengine writes them."""

import json

import pytest
from tools_helpers import refusal, run_tool

pytest.importorskip('matplotlib')
pytest.importorskip('mmengine')
from scsa.analysis import logs
from scsa.cli import UserError
from scsa.visualization import curves

TOOL = 'tools/visualization/curves.py'


def write_log(folder, rows):
    file = folder / 'vis_data/scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text(''.join(f'{json.dumps(row)}\n' for row in rows))


def epochs(first, last, loss=1.0):
    """Two logged iterations and a validation an epoch, ten iterations long."""
    for epoch in range(first, last + 1):
        for step in (10 * epoch - 5, 10 * epoch):
            yield dict(loss=loss / step, lr=0.1, time=1.0, epoch=epoch, iter=step, step=step)
        yield {'accuracy/top5': 90.0 + epoch, 'accuracy/top1': 50.0 + epoch, 'step': epoch}


@pytest.fixture
def by_epoch(tmp_path):
    write_log(tmp_path / 'by_epoch/20260101_000000', epochs(1, 3))
    return tmp_path / 'by_epoch'


@pytest.fixture
def by_iteration(tmp_path):
    rows = [dict(loss=1 / s, lr=0.2, iter=s, step=s) for s in (50, 100, 150, 200)]
    rows += [dict(mIoU=s / 10, aAcc=0.5, step=s) for s in (100, 200)]
    write_log(tmp_path / 'by_iteration/20260101_000000', rows)
    return tmp_path / 'by_iteration'


def test_each_curve_by_its_own_step(by_epoch):
    (run,) = curves.read([by_epoch]).values()
    assert run['loss'] == [[5, 10, 15, 20, 25, 30], [1 / s for s in (5, 10, 15, 20, 25, 30)]]
    assert run['lr'] == [[5, 10, 15, 20, 25, 30], [0.1] * 6]
    assert run['accuracy/top1'] == [[1, 2, 3], [51, 52, 53]] and run['by_epoch']
    assert set(run) == {'by_epoch', 'loss', 'lr', 'accuracy/top1'}


def test_runs_of_other_tasks_side_by_side(by_epoch, by_iteration):
    runs = curves.read([by_epoch, by_iteration], ['top1', 'aAcc', 'mIoU'])
    assert list(runs) == ['by_epoch', 'by_iteration']
    assert not runs['by_iteration']['by_epoch']
    assert runs['by_iteration']['mIoU'] == [[100, 200], [10, 20]]
    assert runs['by_iteration']['accuracy/top1'] == [[], []]
    figure = curves.draw(runs, log_loss=True)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [
        'training loss',
        'validation accuracy/top1',
        'validation aAcc',
        'validation mIoU',
        'learning rate',
    ]
    assert [axis.get_xlabel() for axis in figure.axes[:2]] == ['iteration', 'epoch or iteration']
    assert figure.axes[0].get_yscale() == 'log'
    assert [list(line.get_xdata()) for line in figure.axes[3].lines] == [[], [100, 200]]


def test_where_a_resumed_log_begins_it_holds(by_epoch):
    # The first run came to the middle of epoch 4, the second went on after epoch 2.
    write_log(by_epoch / '20260101_000001', epochs(3, 4, loss=7.0))
    scalars = by_epoch / '20260101_000001/vis_data/scalars.json'
    scalars.write_text(scalars.read_text() + '{"loss": 0.')  # killed while it wrote
    (run,) = curves.read([by_epoch]).values()
    losses = dict(zip(*run['loss']))
    assert losses == {**{s: 1 / s for s in (5, 10, 15, 20)}, **{s: 7 / s for s in (25, 30, 35, 40)}}
    assert run['accuracy/top1'][0] == [1, 2, 3, 4]


def test_a_run_that_was_started_anew_is_not_mixed_with_the_first(by_epoch):
    write_log(by_epoch / '20260101_000001', [dict(loss=3.0, lr=0.1, epoch=1, iter=4, step=4)])
    assert logs.read(by_epoch).training == [dict(loss=3.0, lr=0.1, epoch=1, iter=4, step=4)]


def test_any_part_of_a_work_dir(by_epoch):
    (folder,) = by_epoch.iterdir()
    whole = logs.read(by_epoch)
    assert logs.read(folder) == whole == logs.read(folder / 'vis_data/scalars.json')
    (folder / 'vis_data/scalars.json').rename(folder / 'vis_data/20260101_000000.json')
    assert logs.read(by_epoch) == whole


def test_names_are_as_short_as_they_can_be(tmp_path):
    for name in ('a/seed0', 'a/seed1', 'b/seed0'):
        write_log(tmp_path / name / 'x', epochs(1, 1))
    read = [list(curves.read([tmp_path / n for n in names])) for names in (
        ['a/seed0', 'a/seed1'], ['a/seed0', 'b/seed0'],
    )]  # fmt: skip
    assert read == [['seed0', 'seed1'], ['a/seed0', 'b/seed0']]
    with pytest.raises(UserError, match='is given twice'):
        curves.read([tmp_path / 'a/seed0', tmp_path / 'a/../a/seed0'])


def test_a_run_without_validation(tmp_path):
    write_log(tmp_path / 'run/x', list(epochs(1, 1))[:2])
    (run,) = curves.read([tmp_path / 'run']).values()
    assert set(run) == {'by_epoch', 'loss', 'lr'}
    assert len(curves.draw({'run': run}).axes) == 2


def test_tool(by_epoch, by_iteration, tmp_path):
    out = tmp_path / 'out'
    printed = run_tool(TOOL, by_epoch, by_iteration, '--out-dir', out, '--format', 'png', 'svg')
    lines = printed.splitlines()[-3:]  # before them what the packages warn of on stderr
    assert lines == [f'{out}/curves.{kind}' for kind in ('png', 'svg', 'json')]
    assert json.loads((out / 'curves.json').read_text())['by_epoch']['accuracy/top1'][1] == [
        51,
        52,
        53,
    ]
    assert (out / 'curves.png').read_bytes()[:4] == b'\x89PNG'
    assert '<svg' in (out / 'curves.svg').read_text()


def test_what_is_missing_is_one_line(monkeypatch, capsys, tmp_path, by_epoch):
    line = refusal(monkeypatch, capsys, TOOL, tmp_path / 'none')
    assert line == f'error: work dir not found: {tmp_path}/none; give the --work-dir of a training'
    (tmp_path / 'empty').mkdir()
    line = refusal(monkeypatch, capsys, TOOL, tmp_path / 'empty')
    assert 'no training log in' in line and 'keep LocalVisBackend among the vis_backends' in line
    line = refusal(monkeypatch, capsys, TOOL, by_epoch, '--metric', 'mIoU')
    assert line == 'error: --metric mIoU: choose one of accuracy/top5, accuracy/top1'

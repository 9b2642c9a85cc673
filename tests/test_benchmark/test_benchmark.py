"""The benchmark tool, and the ResNet-50 that it has for where OpenMMLab is missing."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scsa.benchmark import models, modules, timing
from scsa.benchmark.resnet import ResNet50

TOOL = Path(__file__).parents[2] / 'tools' / 'analysis' / 'benchmark.py'

pytestmark = pytest.mark.alone


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, arguments)],
        env={**os.environ, 'PYTHONPATH': str(TOOL.parents[2]), **environment},
        capture_output=True,
        text=True,
    )


def test_module_mode_writes_and_draws_what_it_measured(tmp_path):
    pytest.importorskip('matplotlib')
    found = run(
        'module', '--shapes', '2x8x14x14', '1x16x7x9', '--paths', 'reference', 'eager',
        '--layouts', 'contiguous', 'channels_last', '--device', 'cpu', '--repeats', 3,
        '--out', tmp_path / 'maps',
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    content = json.loads((tmp_path / 'maps.json').read_text())
    assert content['machine']['torch'] == torch.__version__
    rows = content['rows']
    assert len(rows) == 2 * 2 * 2 * 3  # maps, layouts, passes; two paths and the copy
    for row in rows:
        assert 0 < row['low'] <= row['ms'] <= row['high']
    eager = [r for r in rows if r['path'] == 'eager' and r['passes'] == 'forward + backward']
    assert all(r['kept'] < 2 and r['error'] < 1e-5 and r['peak'] > 0 for r in eager)
    assert 'reference / eager' in found.stdout
    assert (tmp_path / 'maps.png').read_bytes().startswith(b'\x89PNG')


def test_sweeps_are_drawn(tmp_path, monkeypatch):
    figures = pytest.importorskip('scsa.benchmark.figures')
    monkeypatch.setattr(
        modules, 'SWEEPS', dict(pixels=[(1, 8, 7, 7), (1, 8, 9, 9)], channels=[(1, 8, 7, 7)])
    )
    rows = [*modules.measure_sweeps(torch.device('cpu'), ['reference', 'eager'], 2)]
    assert {row['sweep'] for row in rows} == {'pixels', 'channels'}
    timing.save(tmp_path / 'sweep.json', rows)
    figures.draw(tmp_path / 'sweep.json', tmp_path / 'sweep.png')
    assert (tmp_path / 'sweep.png').stat().st_size > 10_000


QUICKSTART = TOOL.parents[2] / 'configs' / 'quickstart'
SMALL = [f'{QUICKSTART}/{name}.py' for name in ('resnet18_digits', 'resnet18_digits_scsa')]


@pytest.mark.parametrize(
    ('models', 'size', 'train'),
    [
        (['resnet50', 'resnet50_scsa'], (64, 96), []),
        (SMALL, (32, 64), ['--train', '--amp']),  # half precision is slow on a CPU
    ],
    ids=['infer', 'train'],
)
def test_model_mode_compares_with_the_first(tmp_path, models, size, train):
    found = run(
        'model', *models, '--batch', 1, 2, '--size', *size, '--repeats', 2,
        '--device', 'cpu', '--out', tmp_path / 'models', *train,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    rows = json.loads((tmp_path / 'models.json').read_text())['rows']
    assert [(r['model'], r['batch']) for r in rows] == [
        (model, batch) for batch in (1, 2) for model in models
    ]
    assert all(r['size'] == [*size] and r['images_per_second'] > 0 for r in rows)
    assert rows[0]['speed_over_first'] == 1
    if train:
        assert rows[1]['kept_per_image'] > rows[0]['kept_per_image']


def test_published_protocol_counts_its_images(monkeypatch):
    steps = []

    class Run:
        device = torch.device('cpu')

        def images(self, batch):
            return batch

        def facts(self, batch):
            return dict(batch=batch)

        def step(self, images):
            steps.append(images)

    times = iter((10.0, 12.0))
    monkeypatch.setattr(models.time, 'perf_counter', lambda: next(times))
    row = models.published_protocol(Run())
    assert row == dict(batch=64, protocol='published', images_per_second=30 * 64 / 2)
    assert steps == [64] * 80  # fifty to warm up


def test_batches_are_doubled_until_the_memory_is_full(monkeypatch):
    class Run:
        def __init__(self, name, room):
            self.name, self.room = name, room

        def images(self, batch):
            return batch

        def step(self, batch):
            if batch > self.room:
                raise torch.cuda.OutOfMemoryError

    for name in ('synchronize', 'empty_cache'):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    runs = [Run('plain', 700), Run('scsa', 500), Run('none', 0)]
    assert models.largest_batch(runs[2]) == 0
    largest, batches = models.batches_until_full(runs[:2], 100)
    assert batches == [100, 200, 400]
    assert 700 * 0.9 < largest['plain'] <= 700 and 500 * 0.9 < largest['scsa'] <= 500


def test_the_published_protocol_is_saved_and_drawn(tmp_path, monkeypatch):
    figures = pytest.importorskip('scsa.benchmark.figures')
    run = models.ModelRun('resnet50_scsa', torch.device('cpu'), (32, 32))
    monkeypatch.setattr(run, 'step', lambda images: None)
    timing.save(tmp_path / 'published.json', [models.published_protocol(run)])
    figures.draw(tmp_path / 'published.json', tmp_path / 'published.png')
    assert (tmp_path / 'published.png').stat().st_size > 5_000


def test_detectors_are_told_the_sizes():
    pytest.importorskip('mmdet')
    config = TOOL.parents[2] / 'configs' / 'quickstart' / 'faster-rcnn_r18_scenes_scsa.py'
    for training in (False, True):
        run = models.ModelRun(str(config), torch.device('cpu'), (64, 96), training=training)
        (row,) = models.measure_models([run], 2, 1, warmup=0)
        assert row['images_per_second'] > 0


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['model', 'no/such.py'], 'config not found: no/such.py; or use resnet50 or'),
        (['draw', 'no/such.json'], 'results not found: no/such.json; write them with --out'),
        (['model', 'resnet50', '--device', 'cpu', '--until-full'], '--until-full'),
        (
            ['bars', 'speed', '--device', 'cpu'],
            "no bars 'speed' on cpu; there are stages, networks, digits",
        ),
        (['module', '--shapes', '3x3'], "'3x3' is not BxCxHxW, such as 16x64x56x56"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TOOL), run_name='__main__')
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_kept_bytes_count_storages_once_and_no_parameters():
    x = torch.randn(4, 4, requires_grad=True)
    layer = torch.nn.Linear(4, 4)
    assert timing.bytes_kept(lambda x: layer(x).relu() + layer(x), layer, x) == 2 * 64


@pytest.mark.parametrize('attention', [True, False])
def test_the_resnet_is_that_of_the_backbones(attention):
    models = pytest.importorskip('mmpretrain.models')
    from scsa.backbones import ResNetSCSA

    backbone = (ResNetSCSA if attention else models.ResNet)(50, out_indices=(3,))
    backbone.eval()  # mmpretrain's returns None
    ours = ResNet50(attention).backbone.eval()
    keys = [k for k in ours.state_dict() if 'attn' in k]
    assert len(keys) == (16 * 17 if attention else 0)
    ours.load_state_dict(backbone.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(ours(x), backbone(x)[0])


@pytest.mark.parametrize(
    ('times', 'expected'),
    [([2.0], (2, 2, 2)), ([1.0, 2.0], (1.25, 1.5, 1.75)), ([5.0, 1, 2, 3, 4], (2, 3, 4))],
)
def test_the_spread_lies_within_what_was_measured(times, expected):
    found = timing.summary(times)
    assert (found['low'], found['ms'], found['high']) == expected


@pytest.mark.parametrize(('version', 'there'), [((), False), ((3, 2), False), ((3, 3), True)])
def test_the_triton_path_is_measured_on_a_gpu_whose_triton_can(monkeypatch, version, there):
    monkeypatch.setattr(modules, 'triton_version', lambda: version)
    found = modules.paths_of(torch.device('cuda'))
    assert ('triton' in found) is there

"""The comparison as a user starts it: on tiny networks, killed, and with a known answer."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from tools_helpers import ROOT, SEGMENTATION, environment, refusal, run_tool, tiny_scenes

PLAIN = """
_base_ = '{root}/configs/quickstart/resnet18_digits.py'
model = dict(backbone=dict(stem_channels=8, base_channels=8), head=dict(in_channels=64))
load = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_data = dict(data_root='{digits}', indices=[*range(0, 1437, 3)], pipeline=load)
train_dataloader = dict(batch_size=20, dataset=train_data)
val_dataloader = dict(dataset=dict(data_root='{digits}', indices=[*range(0, 360, 3)]))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=8)
param_scheduler = dict(total_steps=8)
"""
LAME = "_base_ = './plain.py'\nparam_scheduler = dict(eta_max=1e-9)\n"  # it learns nothing
BROKEN = "_base_ = './plain.py'\nmodel = dict(head=dict(in_channels=63))\n"
# mmdet's own, with nothing of ours in it.
RETINANET = """
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
model = dict(
    backbone=dict(init_cfg=None), bbox_head=dict(num_classes=10), test_cfg=dict(score_thr=0)
)
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
resize = dict(type='Resize', scale=(160, 160))
data = dict(
    data_root='{scenes}',
    ann_file='annotations/instances_val.json',
    data_prefix=dict(img='val/'),
    metainfo=dict(classes=tuple('0123456789')),
    pipeline=[*load, resize, dict(type='PackDetInputs', meta_keys=keys)],
)
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=data)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=data)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{scenes}/annotations/instances_val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
"""
MEASURED = ('train_images_per_second', 'test_images_per_second', 'peak_mb')
SMALL = ('--jobs', '2', '--speed-batch', '4', '--speed-repeats', '2', '--shape', '28')


@pytest.fixture(scope='module')
def configs(digits, tmp_path_factory):
    """The same network under two names, one that learns nothing, one that does not run."""
    folder = tmp_path_factory.mktemp('configs')
    plain = PLAIN.format(root=ROOT, digits=digits)
    for name, text in dict(plain=plain, twin=plain, lame=LAME, broken=BROKEN).items():
        (folder / f'{name}.py').write_text(text)
    return folder


def command(configs, names, out, *options):
    paths = [configs / f'{name}.py' for name in names]
    return ['tools/analysis/compare.py', *paths, '--out', out, *SMALL, *options]


def rows(out):
    """The table without what is measured anew each time."""
    found = json.loads((out / 'table.json').read_text())['rows']
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in found]


@pytest.fixture(scope='module')
def whole(configs, tmp_path_factory):
    """An uninterrupted comparison of three configs and three seeds."""
    out = tmp_path_factory.mktemp('whole')
    return out, run_tool(*command(configs, ('plain', 'twin', 'lame'), out))


@pytest.mark.slow
def test_a_twin_differs_by_nothing_and_a_lame_one_is_worse(whole):
    out, seen = whole
    _, twin, lame = rows(out)
    assert (twin['difference'], twin['low'], twin['high'], twin['p']) == (0, 0, 0, 1)
    assert twin['verdict'] == 'no difference found'
    assert lame['verdict'] == 'worse', lame
    assert twin['parameters'] == lame['parameters'] > 0 and twin['gflops'] > 0
    measured = json.loads((out / 'table.json').read_text())['rows']
    assert all(row[key] > 0 for row in measured for key in MEASURED)
    assert '9 of 9 runs done; 0:00:00 left' in seen and '| lame | ' in seen
    assert len((out / 'table.csv').read_text().splitlines()) == 4
    assert (out / 'index.html').read_text().count('<img ') == 7
    assert len([*(out / 'plots').glob('*.png')]) == 7


@pytest.mark.slow
def test_killed_five_times_it_ends_with_the_same_table(whole, configs, tmp_path):
    two = ('--seeds', '0', '1', '--no-speed')  # four runs; most of each is the start of Python
    started = command(configs, ('plain', 'lame'), tmp_path, *two)
    draw = random.Random(0)

    def checkpoints():
        logs = tmp_path.glob('*/seed*/log.txt')
        return sum(log.read_text(errors='replace').count('Saving checkpoint') for log in logs)

    for kill in range(5):
        goal = checkpoints() + draw.randint(1, 4)
        process = subprocess.Popen(
            [sys.executable, *map(str, started)], cwd=ROOT, env=environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        while checkpoints() < goal:
            assert process.poll() is None, 'ended too early to prove anything'
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 0.5))  # longer, and four runs are over before five kills
        if kill % 2:  # the comparison alone: its processes live on
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    run_tool(*started)
    out = whole[0]
    before = {path: path.stat().st_mtime_ns for path in out.glob('*/seed*/metrics.json')}
    run_tool(*command(configs, ('plain', 'lame'), out, *two))  # its table of these
    assert rows(tmp_path) == rows(out)
    assert before == {path: path.stat().st_mtime_ns for path in before}  # nothing done again


@pytest.mark.slow
def test_a_failed_config_does_not_stop_the_rest(configs, tmp_path):
    names = ('plain', 'broken')
    options = ('--seeds', '0', '--no-speed', '--cfg-options', 'train_cfg.max_epochs=1')
    done = subprocess.run(
        [sys.executable, *map(str, command(configs, names, tmp_path, *options))],
        cwd=ROOT, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert 'failed: broken seed 0: RuntimeError: mat1 and mat2' in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith('error: 1 of 2 runs failed')
    first, second = rows(tmp_path)
    assert first['runs'] == 1 and second['runs'] == 0
    assert 'broken seed 0: RuntimeError' in (tmp_path / 'index.html').read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('task', 'own', 'chosen'),
    [('detection', 'coco/bbox_mAP', 'bbox_mAP_50'), ('segmentation', 'mIoU', 'aAcc')],
)
def test_other_tasks_and_metrics(task, own, chosen, scenes, tmp_path):
    pytest.importorskip('mmcv.ops', reason='mmdet and mmseg need the compiled operators')
    options, name = tiny_scenes(scenes, SEGMENTATION), SEGMENTATION
    if task == 'detection':
        name, options = tmp_path / 'retinanet.py', ()
        name.write_text(RETINANET.format(scenes=scenes))
    out = tmp_path / 'out'
    started = ('tools/analysis/compare.py', name, '--seeds', '0', '--no-speed', '--out', out)
    assert '1 of 1 runs done; 0:00:00 left' in run_tool(*started, *options)
    (row,) = rows(out)
    assert row['metric'] == own and row['mean'] is not None and row['gflops'] > 0
    plots = {path.name for path in (out / 'plots').iterdir()}
    assert len(plots) == 4 and {'training_loss.png'} < plots
    (log,) = out.glob('*/seed0/log.txt')
    before = log.stat().st_mtime_ns
    run_tool(*started, '--metric', chosen, *options)
    assert rows(out)[0]['metric'].endswith(chosen) and log.stat().st_mtime_ns == before


def test_what_is_refused(configs, tmp_path, monkeypatch, capsys):
    def line(names, *options):
        return refusal(monkeypatch, capsys, *command(configs, names, tmp_path / 'out', *options))

    assert 'config not found' in line(['none'])
    assert 'given twice' in line(['plain', 'plain'])
    assert '--seeds 1 1: one is given twice' in line(['plain'], '--seeds', '1', '1')
    for gpus, said in (('0,0', 'one is named twice'), ('999', 'GPU 999 is not here')):
        asked = ('tools/analysis/compare.py', configs / 'plain.py', '--gpus', gpus)
        assert f'--gpus {gpus}: {said}' in refusal(monkeypatch, capsys, *asked)
    assert '--shape: give a side' in line(['plain'], '--shape', '28', '0')
    assert 'give KEY=VALUE' in line(['plain'], '--cfg-options', 'train_cfg')
    missing = line(['plain'], '--cfg-options', 'train_dataloader.dataset.data_root=/nowhere')
    assert 'data root not found: /nowhere' in missing
    assert not (tmp_path / 'out').exists()

"""A file that cannot be read: its path in one line, or skipped and counted, in any process."""

import json
import multiprocessing
import runpy
import shutil
import sys
from functools import lru_cache

import numpy as np
import pytest
import torch
from tools_helpers import CONFIG, ROOT, refusal, tiny

pytest.importorskip('mmpretrain', reason='the data sets are those of OpenMMLab')
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner

from scsa.cli import UserError
from scsa.engine.reading import BadFile, SkippedFiles, careful_dataset, read_carefully, read_paths

TRAIN = 'tools/train.py'


def cut(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


@pytest.fixture
def spoilt(digits, tmp_path):
    """Digits of which three of the first 96, which `tiny` trains on, cannot be read."""
    root = tmp_path / 'digits'
    shutil.copytree(digits, root)
    bad = [sorted((root / 'train/0').iterdir())[i] for i in (5, 33, 70)]
    bad[0].write_bytes(b'')
    cut(bad[1])
    bad[2].write_text('<html>')
    return root, [str(file) for file in bad]


@pytest.fixture
def refused(monkeypatch, capsys):
    return lambda *arguments: refusal(monkeypatch, capsys, *arguments)


@pytest.fixture
def train(monkeypatch, tmp_path):
    """Trains in this process; gives the log, and the files that were skipped."""

    def run(*arguments):
        monkeypatch.chdir(ROOT)
        arguments = [TRAIN, CONFIG, '--no-validate', '--work-dir', tmp_path / 'work', *arguments]
        monkeypatch.setattr(sys, 'argv', [str(one) for one in arguments])
        runpy.run_path(TRAIN, run_name='__main__')
        (log,) = (tmp_path / 'work').glob('*/*.log')
        notes = log.parent / 'skipped_files.txt'
        return log.read_text(), notes.read_text().splitlines() if notes.exists() else None

    return run


@pytest.mark.parametrize('workers', [0, 2])
def test_a_bad_image_is_one_line_with_its_path(workers, digits, tmp_path, refused):
    root = tmp_path / 'digits'
    shutil.copytree(digits, root)
    bad = cut(sorted((root / 'train/0').iterdir())[33])
    options = tiny(root, f'train_dataloader.num_workers={workers}')
    line = refused(TRAIN, CONFIG, '--work-dir', tmp_path / 'work', *options)
    assert line.startswith(f'error: {bad} cannot be read: it cannot be decoded; ')
    assert 'tools/data/check.py' in line and '--skip-bad' in line and 'Traceback' not in line


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_so_it_is_in_validation_where_none_is_skipped(tool, digits, tmp_path, refused):
    """Also in processes that stay from one epoch to the next."""
    root = tmp_path / 'digits'
    shutil.copytree(digits, root)
    bad = cut(sorted((root / 'val/0').iterdir())[7])
    workers = [
        f'{run}_dataloader.{key}'
        for run in ('val', 'test')
        for key in ('num_workers=2', 'persistent_workers=True')
    ]
    few = ['train_cfg.max_epochs=1', 'train_dataloader.dataset.indices=32']
    options = ['--work-dir', tmp_path / 'work', *tiny(root, *few, *workers)]
    if tool == 'train':
        line = refused(TRAIN, CONFIG, '--skip-bad', '9', *options)
    else:
        torch.save({'state_dict': {}}, tmp_path / 'c.pth')
        line = refused('tools/test.py', CONFIG, tmp_path / 'c.pth', '--allow-missing', *options)
    assert line.startswith(
        f'error: {bad} cannot be read: it cannot be decoded; tools/data/check.py'
    )
    assert '--skip-bad' not in line


def test_files_are_skipped_and_each_is_counted_once(spoilt, train):
    """Two processes, new ones in each of two epochs."""
    root, bad = spoilt
    options = ['train_dataloader.num_workers=2', 'train_cfg.max_epochs=2']
    log, skipped = train('--skip-bad', '3', *tiny(root, *options))
    assert sorted(line.split('\t')[0] for line in skipped) == bad
    for file in bad:
        assert log.count(f'skipped {file}: ') == 1
    assert '(3 of at most 3)' in log
    assert '3 files could not be read and were skipped; ' in log
    assert all(file in log.splitlines()[-1] for file in bad)


@pytest.mark.parametrize('workers', [0, 2])
def test_one_too_many_ends_the_run(workers, spoilt, tmp_path, refused):
    root, bad = spoilt
    options = tiny(root, f'train_dataloader.num_workers={workers}')
    work = tmp_path / 'work'
    line = refused(TRAIN, CONFIG, '--skip-bad', '2', '--work-dir', work, *options)
    assert line.startswith('error: 3 files cannot be read, and --skip-bad is 2: the last is ')
    (notes,) = work.glob('*/skipped_files.txt')
    assert f'{notes} names them all' in line
    assert {line.split('\t')[0] for line in notes.read_text().splitlines()} == set(bad)


def test_what_was_skipped_can_be_left_out(spoilt, tmp_path, train):
    root, bad = spoilt
    notes = tmp_path / 'bad.txt'
    notes.write_text('# a comment\n' + ''.join(f'{file}\tbroken\n' for file in bad))
    log, skipped = train('--leave-out', notes, *tiny(root, 'train_cfg.max_epochs=1'))
    assert '3 of 96 training images are left out' in log
    assert skipped is None


def dataset_of(root, **changes):
    steps = [dict(type='LoadImageFromFile'), dict(type='RandomCrop', crop_size=20)]
    config = dict(type='CustomDataset', data_root=str(root), data_prefix='train', pipeline=steps)
    return {**config, **changes}


def read_all(dataset):
    np.random.seed(3)
    order = np.random.permutation(len(dataset))[:60]
    pictures = [dataset[int(i)]['img'] for i in order]
    return np.stack(pictures), np.random.rand()


def test_a_run_without_bad_files_draws_the_same_numbers(digits, tmp_path):
    skipped = SkippedFiles(tmp_path / 'skipped', 5)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        plain = DATASETS.build(dataset_of(digits))
        careful = careful_dataset(dataset_of(digits), skipped, frozenset(), 'mend it')
    (expected, after), (found, after_too) = read_all(plain), read_all(careful)
    assert np.array_equal(expected, found) and after == after_too
    assert len(np.unique(expected, axis=0)) > 50, 'nothing was drawn, so nothing is proved'


def test_images_are_left_out_of_data_sets_inside_of_others(digits):
    """Of training alone; where the numbers of two are the same, each has its own images."""
    one, other = dataset_of(digits), dataset_of(digits, indices=40)
    several = dict(type='ConcatDataset', datasets=[one, other])
    loader = dict(
        dataset=dict(type='RepeatDataset', times=2, dataset=several),
        sampler=dict(type='DefaultSampler', shuffle=False),
        batch_size=1,
        num_workers=0,
    )

    class Config(dict):
        pass

    runner = type('Runner', (), {})()
    cfg = Config(train_dataloader=loader, val_dataloader=loader, test_dataloader=None)
    files = sorted((digits / 'train/0').iterdir())
    read_carefully(runner, cfg, None, {str(files[i]) for i in (0, 39, 40)})
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        train = Runner.build_dataloader(runner._train_dataloader).dataset
        val = Runner.build_dataloader(runner._val_dataloader).dataset
    assert not hasattr(runner, '_test_dataloader')
    assert len(val) - len(train) == 2 * (3 + 2)
    paths = {train.get_data_info(i)['img_path'] for i in range(len(train))}
    assert not paths & {str(files[i]) for i in (0, 39, 40)} and str(files[1]) in paths


def test_a_list_that_leaves_nothing_or_is_not_there(digits, tmp_path):
    with pytest.raises(UserError, match=r'list not found: none\.txt; tools/data/check\.py'):
        read_paths('none.txt')
    one = dataset_of(digits, indices=1)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        only = DATASETS.build(one).get_data_info(0)['img_path']
        with pytest.raises(UserError, match='leaves no image'):
            careful_dataset(one, None, {only}, '')


def add_some(path, first):
    skipped = SkippedFiles(path, 100)
    for i in range(40):
        skipped.add(f'{(first + i) % 50}.png', 'broken')


def test_many_processes_count_together(tmp_path):
    path = tmp_path / 'skipped'
    processes = [
        multiprocessing.get_context('fork').Process(target=add_some, args=(path, first))
        for first in (0, 10, 20, 30)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert SkippedFiles(path, 49).read() == {f'{i}.png': 'broken' for i in range(50)}
    with pytest.raises(BadFile, match=r'51 files cannot be read, and --skip-bad is 50: .*new\.png'):
        SkippedFiles(path, 50).add('new.png', 'broken')


@pytest.fixture(scope='module')
def clean_scenes(tmp_path_factory):
    pytest.importorskip('mmcv.ops', reason='mmdet and mmseg need its compiled operators')
    pytest.importorskip('mmdet')
    pytest.importorskip('mmseg')
    from scsa.datasets.digit_scenes import write

    out = tmp_path_factory.mktemp('clean') / 'scenes'
    write(out, {'train': 6, 'val': 1}, size=160, seed=0)
    return out


@pytest.fixture
def scenes(clean_scenes, tmp_path):
    return shutil.copytree(clean_scenes, tmp_path / 'scenes')


@lru_cache
def scene_config(task):
    from mmengine.config import Config

    name = 'fpn_r18_scenes' if task == 'mmseg' else 'faster-rcnn_r18_scenes'
    return Config.fromfile(ROOT / f'configs/quickstart/{name}.py').train_dataloader.dataset


def scene_dataset(task, root):
    """The data set that a quick start trains on."""
    root = root / 'ade' if task == 'mmseg' else root
    return {**scene_config(task), 'data_root': str(root)}


@pytest.mark.parametrize(
    ('task', 'what', 'how'),
    [
        ('mmdet', 'train/00002.jpg', 'gone'),
        ('mmseg', 'ade/images/training/00002.jpg', 'cut'),
        ('mmseg', 'ade/annotations/training/00002.png', 'cut'),
        ('mmseg', 'ade/annotations/training/00002.png', 'gone'),
    ],
)
def test_detection_and_segmentation(task, what, how, scenes, tmp_path):
    config, file = scene_dataset(task, scenes), scenes / what
    assert file.exists()
    skipped = SkippedFiles(tmp_path / 'skipped', 1)
    with DefaultScope.overwrite_default_scope(task):
        strict = careful_dataset(config, None, frozenset(), 'mend it')
        lenient = careful_dataset(config, skipped, frozenset(), 'mend it')
    cut(file) if how == 'cut' else file.unlink()
    with pytest.raises(BadFile, match=f'^{file} cannot be read: .*; mend it$'):
        [strict[i] for i in range(len(strict))]
    items = [lenient[i] for i in range(len(lenient))]
    assert len(items) == 6 and all(torch.is_tensor(item['inputs']) for item in items)
    assert list(skipped.read()) == [str(file)]
    with DefaultScope.overwrite_default_scope(task):
        rest = careful_dataset(config, None, read_paths(skipped.path), '')
    assert len([rest[i] for i in range(len(rest))]) == 5


def test_annotations_that_cannot_be_used(scenes):
    path = scenes / 'annotations/instances_train.json'
    content = json.loads(path.read_text())
    content['annotations'][0]['segmentation'] = {'size': [160, 160], 'counts': '@'}
    path.write_text(json.dumps(content))
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = careful_dataset(scene_dataset('mmdet', scenes), None, frozenset(), 'mend it')
    with pytest.raises(BadFile, match=r'0\.jpg cannot be read: annotations: ValueError'):
        [dataset[i] for i in range(len(dataset))]

"""Mistakes in a config are one line before a step is taken: what is wrong, where, what to set."""

import re

import pytest
import torch
from tools_helpers import (
    CONFIG,
    DETECTION,
    ROOT,
    SEGMENTATION,
    refusal,
    save_checkpoint,
    tiny,
    tiny_scenes,
)

pytest.importorskip('mmpretrain', reason='the checks are those of runs with mmengine')
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, MODELS, DefaultScope
from torch import nn

from scsa.cli import UserError
from scsa.engine.agreement import (
    check_batches,
    check_classes,
    check_loaders,
    check_rates,
    outputs_of,
)
from scsa.engine.config import set_launcher

TRAIN, TEST = 'tools/train.py', 'tools/test.py'


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """Runs a tool that must refuse, and fails if it came to a step."""

    def step(self, *_, **__):
        raise AssertionError('a step was taken')

    monkeypatch.setattr('mmengine.model.BaseModel.train_step', step)
    monkeypatch.setattr('mmengine.model.BaseModel.test_step', step)
    return lambda *arguments: refusal(
        monkeypatch, capsys, *arguments[:2], '--work-dir', tmp_path, *arguments[2:]
    )


# Classes and outputs, through the tools.


def test_a_classifier_with_too_few_outputs(refused, digits):
    line = refused(TRAIN, CONFIG, *tiny(digits, 'model.head.num_classes=5'))
    assert 'train_dataloader.dataset has 10 classes (0, 1, 2, …)' in line
    assert 'model.head.num_classes is 5: set model.head.num_classes=10, or change' in line


@pytest.fixture
def three(digits, tmp_path):
    """Validation data of three classes."""
    for name in '012':
        (tmp_path / 'three/val').mkdir(parents=True, exist_ok=True)
        (tmp_path / 'three/val' / name).symlink_to(digits / 'val' / name)
    return tmp_path / 'three'


def test_validation_data_with_other_classes(refused, digits, three):
    line = refused(TRAIN, CONFIG, *tiny(digits, f'val_dataloader.dataset.data_root={three}'))
    assert 'val_dataloader.dataset has 3 classes (0, 1, 2), but data_preprocessor.num' in line
    assert 'is 10: set data_preprocessor.num_classes=3 model.head.num_classes=3, or' in line


@pytest.mark.parametrize('augmented', [False, True])
def test_a_classifier_that_is_tested_on_other_classes(augmented, refused, digits, three, tmp_path):
    save_checkpoint(CONFIG, tmp_path / 'c.pth', list('0123456789'))
    options = [option for option in tiny(digits) if 'channels' not in option]
    options.append(f'test_dataloader.dataset.data_root={three}')
    if augmented:
        flips = [f'train_dataloader.dataset.pipeline.1.{x}' for x in ('type=RandomFlip', 'prob=1')]
        options = ['--tta', *options, *flips]
    line = refused(TEST, CONFIG, tmp_path / 'c.pth', *options)
    assert 'test_dataloader.dataset has 3 classes (0, 1, 2)' in line
    assert 'is 10: set data_preprocessor.num_classes=3 model.head.num_classes=3, or' in line


def test_folders_that_are_not_the_classes(refused, digits):
    line = refused(TRAIN, CONFIG, *tiny(digits, 'val_dataloader.dataset.metainfo.classes=a,b,c'))
    assert 'the data do not fit the config: The number of subfolders (10)' in line


def test_labels_without_names(refused, digits, tmp_path):
    folder = digits / 'train'
    files = sorted(path.relative_to(folder) for path in folder.rglob('*.png'))[:40]
    (tmp_path / 'labels.txt').write_text(''.join(f'{p} {i % 12}\n' for i, p in enumerate(files)))
    options = tiny(digits, f'train_dataloader.dataset.ann_file={tmp_path}/labels.txt')
    options = [option for option in options if 'train_dataloader.dataset.indices' not in option]
    line = refused(TRAIN, CONFIG, *options)
    assert 'train_dataloader.dataset has labels from 0 to 11, but data_preprocessor.num' in line
    assert 'set data_preprocessor.num_classes=12 model.head.num_classes=12, or change' in line


@pytest.mark.parametrize(
    ('config', 'key'),
    [
        (DETECTION, 'model.roi_head.bbox_head.num_classes'),
        (SEGMENTATION, 'model.decode_head.num_classes'),
    ],
)
def test_detectors_and_segmentors(config, key, refused, scenes):
    pytest.importorskip('mmcv.ops', reason='mmdet and mmseg need mmcv with its operators')
    options = [o for o in tiny_scenes(scenes, config) if o != 'model.backbone.init_cfg=None']
    if config == SEGMENTATION:
        options.append('model.backbone.init_cfg=None')
    line = refused(TRAIN, config, *options, f'{key}=7')
    number = 10 if config == DETECTION else 11
    assert f'train_dataloader.dataset has {number} classes' in line
    assert f'but {key} is 7: set {key}={number}' in line


# Classes and outputs, what is counted and what is not.


class Head(nn.Module):
    def __init__(self, num_classes, **more):
        super().__init__()
        self.num_classes = num_classes
        for name, value in more.items():
            setattr(self, name, value)


def parts(**modules):
    model = nn.Module()
    for name, module in modules.items():
        model.add_module(name, module)
    return model


def metainfo(*classes):
    return type('Data', (), dict(metainfo=dict(classes=classes)))()


def test_proposals_backbones_and_unset_numbers_are_not_counted():
    model = parts(
        backbone=Head(1000), rpn_head=Head(1), semantic_head=Head(54), neck=Head(-1), a=Head(None)
    )
    assert outputs_of(model) == {}
    assert outputs_of(parts(b=Head(3), module=parts(c=Head(4)))) == {'b': 3, 'module.c': 4}


def test_every_key_that_is_to_be_set_is_named():
    model = parts(roi_head=parts(bbox_head=nn.ModuleList([Head(80), Head(3), Head(80)])))
    heads = [dict(num_classes=80)] * 3
    for head, keys in (
        (
            heads,
            ['model.roi_head.bbox_head.0.num_classes', 'model.roi_head.bbox_head.2.num_classes'],
        ),
        (heads[0], ['model.roi_head.bbox_head.num_classes'] * 2),
    ):
        cfg = Config(dict(model=dict(roi_head=dict(bbox_head=head))))
        with pytest.raises(UserError) as error:
            check_classes(model, metainfo('a', 'b', 'c'), 'train_dataloader', cfg)
        assert ' '.join(f'{key}=3' for key in dict.fromkeys(keys)) + ',' in str(error.value)


def test_the_loss_and_the_preprocessor_count_too():
    cfg = Config(dict(model=dict(head=dict(loss=dict(num_classes=1000))), data_preprocessor={}))
    model = parts(head=Head(3, loss_module=Head(1000)), data_preprocessor=Head(3))
    with pytest.raises(UserError, match=r'set model\.head\.loss\.num_classes=3,'):
        check_classes(model, metainfo('a', 'b', 'c'), 'train_dataloader', cfg)
    model = parts(head=Head(3), data_preprocessor=Head(1000))
    with pytest.raises(UserError, match=r'set data_preprocessor\.num_classes=3,'):
        check_classes(model, metainfo('a', 'b', 'c'), 'train_dataloader', cfg)


def test_one_output_tells_two_classes_apart():
    cfg = Config(dict(model=dict(decode_head={})))
    one = parts(decode_head=Head(1, out_channels=1))
    check_classes(one, metainfo('background', 'road'), 'train_dataloader', cfg)
    with pytest.raises(UserError):
        check_classes(one, metainfo('background', 'road', 'sky'), 'train_dataloader', cfg)


def test_what_cannot_be_known_is_not_refused():
    cfg, model = Config(dict(model={})), parts(head=Head(3))
    for data in ([], object(), type('Data', (), dict(metainfo={}))()):
        check_classes(model, data, 'train_dataloader', cfg)
    check_classes(parts(head=nn.Linear(1, 5)), metainfo('a', 'b'), 'train_dataloader', cfg)
    with pytest.raises(UserError, match='num_classes of the model\'s part "head"'):
        check_classes(model, metainfo('a'), 'train_dataloader', cfg)


def test_a_class_name_that_should_be_a_list():
    data = BaseDataset(metainfo=dict(classes='cat'), lazy_init=True)
    with pytest.raises(UserError, match=r"are the text 'cat'.*classes=\('cat',\)"):
        check_classes(parts(), data, 'train_dataloader', Config(dict(model={})))


@pytest.mark.parametrize('path', sorted((ROOT / 'configs/quickstart').glob('*digits*.py')))
def test_our_own_classifiers_are_not_refused(path, digits):
    """Those of the other tasks are in tests/test_configs."""
    cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(ConfigDict(cfg.model, data_preprocessor=cfg.data_preprocessor))
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            data = DATASETS.build(dict(cfg[loader].dataset, data_root=str(digits)))
            check_classes(model, data, loader, cfg)
    assert outputs_of(model) == {'data_preprocessor': 10, 'head': 10}


# Loaders.


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        (['batch_size=0'], 'batch_size is 0: set a whole number, 1 or more'),
        (['batch_size=-4'], 'batch_size is -4'),
        (['batch_size=many'], "batch_size is 'many'"),
        (['num_workers=-1'], 'num_workers is -1: set a whole number, 0 or more'),
        (['persistent_workers=True'], 'persistent_workers=False, or some workers'),
        (['prefetch_factor=2'], 'prefetch_factor=None, or some workers'),
        (['num_workers=2', 'prefetch_factor=0'], 'prefetch_factor is 0'),
        (['timeout=5'], 'timeout=0, or some workers'),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else '',
)
def test_impossible_settings_of_a_loader(settings, said, refused, digits, tmp_path):
    for tool, name in ((TRAIN, 'val_dataloader'), (TEST, 'test_dataloader')):
        (tmp_path / 'c.pth').touch()
        checkpoint = [tmp_path / 'c.pth'] if tool == TEST else []
        options = tiny(digits, *(f'{name}.{setting}' for setting in settings))
        assert f'{name}.{said}' in refused(tool, CONFIG, *checkpoint, *options)


@pytest.mark.parametrize('name', ['max_epochs', 'val_interval'])
def test_a_run_of_no_length(name, refused, digits):
    assert f'train_cfg.{name} is 0: set' in refused(
        TRAIN, CONFIG, *tiny(digits, f'train_cfg.{name}=0')
    )


def test_all_settings_that_are_wrong_are_one_message():
    loaders = dict(train_dataloader=dict(batch_size=0), val_dataloader=dict(num_workers=-1))
    cfg = Config(
        dict(loaders, train_cfg=dict(max_iters=1e5), optim_wrapper=dict(accumulative_counts=0))
    )
    with pytest.raises(UserError) as error:
        check_loaders(cfg, list(loaders))
    faults = str(error.value).split(' | ')
    assert [fault.split(' is ')[0] for fault in faults] == [
        'train_dataloader.batch_size',
        'val_dataloader.num_workers',
        'optim_wrapper.accumulative_counts',
    ]


def test_a_loader_that_gives_no_batch(refused, digits):
    options = tiny(digits, 'train_dataloader.drop_last=True', 'train_dataloader.batch_size=97')
    line = refused(TRAIN, CONFIG, *options)
    assert 'train_dataloader gives no batch: it has 96 images' in line and 'drop_last=False' in line


def test_a_loader_without_images():
    for by_epoch in (True, False):
        with pytest.raises(UserError, match='has no images: look at its ann_file'):
            check_batches(torch.utils.data.DataLoader([]), 'train_dataloader', by_epoch)
    small = torch.utils.data.DataLoader([1, 2], 3, drop_last=True)
    check_batches(small, 'train_dataloader', by_epoch=False)  # it begins anew
    endless = type('Endless', (torch.utils.data.IterableDataset,), dict(__iter__=iter))()
    check_batches(torch.utils.data.DataLoader(endless), 'train_dataloader', by_epoch=True)


# The optimizer.


def test_a_learning_rate_of_nothing(refused, digits):
    options = ['param_scheduler=None', 'optim_wrapper.optimizer.lr=0']
    options = [*(o for o in tiny(digits) if 'param_scheduler' not in o), *options]
    assert 'the learning rate of all 1 groups' in refused(TRAIN, CONFIG, *options)
    options[-1] = 'optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult=0'
    options += ['optim_wrapper.paramwise_cfg.custom_keys.head.lr_mult=0']
    assert 'look at lr_mult in optim_wrapper.paramwise_cfg' in refused(TRAIN, CONFIG, *options)


def test_a_model_of_which_all_is_frozen(refused, digits, monkeypatch):
    build = MODELS.build

    def frozen(cfg, *arguments, **more):
        return build(cfg, *arguments, **more).requires_grad_(False)

    monkeypatch.setattr(MODELS, 'build', frozen)
    for more in ((), ('optim_wrapper.paramwise_cfg.norm_decay_mult=0',)):
        line = refused(TRAIN, CONFIG, *tiny(digits, *more))
        assert re.search(r'nothing to train: all \d+ parameters of the model are frozen', line)


def test_a_schedule_may_start_at_zero_and_frozen_parts_do_not_count():
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1).requires_grad_(False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    assert optimizer.param_groups[0]['lr'] == 0
    check_rates(optimizer)
    groups = [dict(params=model[0].parameters(), lr=0), dict(params=model[1].parameters(), lr=1)]
    with pytest.raises(UserError, match='nothing to train'):
        check_rates(torch.optim.SGD(groups))


# Launchers.


@pytest.mark.parametrize(
    ('launcher', 'starter'), [('pytorch', 'dist_train'), ('slurm', 'slurm_train')]
)
def test_a_launcher_without_its_environment(launcher, starter, monkeypatch):
    for variable in ('RANK', 'SLURM_PROCID'):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    arguments = type('Arguments', (), dict(launcher=launcher))
    with pytest.raises(UserError, match=rf'--launcher {launcher} needs .*tools/{starter}\.sh'):
        set_launcher(Config(), arguments)

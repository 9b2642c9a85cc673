"""The classification configs: the published facts, the data pipelines, one step of training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmpretrain', reason='the configs are those of OpenMMLab')
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS, MODELS

import scsa  # noqa: F401 (registers the backbones)
from scsa.engine.agreement import check_classes

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / 'configs' / 'classification').glob('*_in1k*.py'))
WITH_SCSA = [path for path in CONFIGS if path.stem.endswith('_scsa')]
PLAIN = [path for path in CONFIGS if not path.stem.endswith('_scsa')]


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory):
    """ImageNet's layout, a thousand classes, one picture each."""
    root = tmp_path_factory.mktemp('imagenet')
    picture = Image.fromarray(np.random.RandomState(0).randint(0, 255, (40, 60, 3), np.uint8))
    for split in ('train', 'val'):
        for number in range(1000):
            folder = root / split / f'n{number:08d}'
            folder.mkdir(parents=True)
            picture.save(folder / f'n{number:08d}_1.JPEG')
    return root


def load(path):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    return cfg


def test_every_scsa_config_has_a_plain_baseline():
    assert len(WITH_SCSA) == 6
    assert [f'{path.stem}_scsa' for path in PLAIN] == [path.stem for path in WITH_SCSA]


@pytest.mark.parametrize('path', WITH_SCSA, ids=lambda path: path.stem)
def test_the_baseline_differs_in_its_backbone_alone(path):
    ours, plain = load(path).to_dict(), load(path.with_name(f'{path.stem[:-5]}.py')).to_dict()
    for key in ('custom_imports', 'scsa_cfg'):
        ours.pop(key)
    backbone, plain_backbone = ours['model'].pop('backbone'), plain['model'].pop('backbone')
    assert ours == plain
    for key in ('scsa_cfg', 'position'):
        backbone.pop(key, None)
    assert backbone.pop('type') == plain_backbone.pop('type') + 'SCSA'
    assert backbone == plain_backbone


@pytest.mark.parametrize(
    ('name', 'batch', 'lr', 'decay', 'epochs', 'amp', 'dropout'),
    [
        ('resnet50_1xb128_in1k_scsa', 128, 0.05, 1e-4, 100, False, 0.0),
        ('resnet101_1xb128_in1k_scsa', 128, 0.05, 1e-4, 100, True, 0.1),
        ('mobilenet-v2_1xb96_in1k_scsa', 96, 0.045, 4e-5, 400, True, 0.0),
    ],
)
def test_the_published_recipes(name, batch, lr, decay, epochs, amp, dropout):
    cfg = load(ROOT / 'configs' / 'classification' / f'{name}.py')
    loaders = (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)
    assert [loader.batch_size for loader in loaders] == [batch] * 3
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum) == ('SGD', lr, 0.9)
    assert optimizer.weight_decay == decay
    assert cfg.optim_wrapper.get('type') == ('AmpOptimWrapper' if amp else None)
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval) == (epochs, 1)
    mobile = 'mobilenet' in name
    schedule = dict(gamma=0.98, step_size=1) if mobile else dict(gamma=0.1, milestones=[30, 60, 90])
    assert {key: cfg.param_scheduler[key] for key in schedule} == schedule
    assert cfg.auto_scale_lr.base_batch_size == batch
    assert cfg.randomness.seed == 0
    assert (cfg.default_hooks.checkpoint.interval, cfg.default_hooks.checkpoint.save_best) == (
        1,
        'auto',
    )
    assert cfg.model.backbone.scsa_cfg.to_dict() == dict(
        head_num=1,
        window_size=7,
        group_kernel_sizes=(3, 5, 7, 9),
        down_sample_mode='avg_pool',
        attn_drop_ratio=dropout,
        gate_layer='sigmoid',
    )
    resize = dict(backend='pillow') if mobile else dict()
    assert cfg.train_dataloader.dataset.pipeline[1:3] == [
        dict(type='RandomResizedCrop', scale=224, **resize),
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    ]
    assert cfg.val_dataloader.dataset.pipeline[1:3] == [
        dict(type='ResizeEdge', scale=256, edge='short', **resize),
        dict(type='CenterCrop', crop_size=224),
    ]
    assert cfg.train_dataloader.dataset.data_root == 'data/imagenet'


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_config_reads_imagenet_and_trains_a_step(path, imagenet):
    cfg = load(path)
    model = MODELS.build(dict(cfg.model, data_preprocessor=dict(cfg.data_preprocessor)))
    model.init_weights()
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(imagenet)
    train, val = (
        DATASETS.build(loader.dataset) for loader in (cfg.train_dataloader, cfg.val_dataloader)
    )
    assert len(train) == len(val) == 1000
    for loader, dataset in (('train_dataloader', train), ('val_dataloader', val)):
        check_classes(model, dataset, loader, cfg)
    batch = default_collate([train[3], train[999]])
    assert batch['inputs'].shape == (2, 3, 224, 224)
    assert [int(sample.gt_label) for sample in batch['data_samples']] == [3, 999]

    loss = model.train_step(batch, _Step(model))['loss']
    assert loss.isfinite()
    grads = [p.grad for p in model.backbone.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)
    with torch.no_grad():
        result = model.eval().val_step(default_collate([val[7]]))[0]
    assert result.pred_score.shape == (1000,) and int(result.gt_label) == 7


class _Step:
    """An optimizer wrapper that keeps the gradients."""

    def __init__(self, model):
        self.model = model

    def optim_context(self, model):
        return torch.enable_grad()

    def update_params(self, loss):
        loss.backward()

"""Every segmentation config builds, predicts, reads its data, and keeps the recipe it names."""

from __future__ import annotations

import pytest
import torch
from config_helpers import (
    build,
    config_names,
    documented_parameters,
    flat,
    head_classes,
    read,
    same_recipe,
    segmentation_batch,
    train_one_step,
)
from mmengine.hub import get_config
from mmengine.registry import DATASETS, EVALUATOR, DefaultScope

from scsa import SCSA
from scsa.analysis.complexity import count_parameters
from scsa.datasets.digit_scenes import SEGMENTATION_CLASSES
from scsa.engine.agreement import outputs_of

pytest.importorskip('mmcv.ops', reason='mmseg needs mmcv with its compiled operators')
pytest.importorskip('mmseg')

QUICKSTART = config_names('quickstart/upernet*.py', 'quickstart/fpn*.py')
NAMES = config_names('segmentation/*.py') + QUICKSTART
# The model does not know how long it is trained.
MODELS = [name for name in NAMES if '-80k_' not in name]
BASELINES = {name: name.replace('-scsa', '').replace('_scsa', '') for name in NAMES}
PAIRS = [name for name, plain in BASELINES.items() if plain != name and plain in NAMES]
TRAINED = [
    'quickstart/fpn_r18_scenes_scsa.py',
    'segmentation/upernet_r50-scsa_4xb4-160k_ade20k-512x512.py',
    'segmentation/upernet_swin-t-scsa_8xb2-160k_ade20k-512x512.py',
]


@pytest.mark.parametrize('name', MODELS)
def test_predicts(name):
    cfg = read(name)
    model = build(cfg).eval()
    assert set(outputs_of(model).values()) == {head_classes(cfg)}  # else no run would start
    batch = model.data_preprocessor(segmentation_batch(64, 96))
    with torch.no_grad():
        (result,) = model(**batch, mode='predict')
    assert result.seg_logits.data.shape == (head_classes(cfg), 64, 96)
    assert result.seg_logits.data.isfinite().all()
    attentions = [module for module in model.modules() if isinstance(module, SCSA)]
    assert bool(attentions) == ('scsa' in name)
    assert documented_parameters(name) == count_parameters(model)


@pytest.mark.parametrize('name', TRAINED)
def test_takes_a_training_step(name):
    model = build(read(name))
    model.data_preprocessor.size = (64, 96)  # ADE20K's 512 x 512 takes minutes here
    before = {key: value.clone() for key, value in model.state_dict().items()}
    losses = train_one_step(model, segmentation_batch(64, 96, images=2))
    assert all(value.isfinite() for value in losses.values())
    after = model.state_dict()
    moved = [k for k in before if 'norm_h.weight' in k and not torch.equal(before[k], after[k])]
    assert len(moved) == sum(isinstance(module, SCSA) for module in model.modules()) > 0


@pytest.mark.parametrize('name', NAMES)
def test_reads_its_data(name, data_root, monkeypatch):
    """Nothing is overridden: data_root, folders and classes are those of the documented tree."""
    monkeypatch.chdir(data_root)
    cfg = read(name)
    with DefaultScope.overwrite_default_scope('mmseg'):
        train = DATASETS.build(cfg.train_dataloader.dataset)
        val = DATASETS.build(cfg.val_dataloader.dataset)
        EVALUATOR.build(dict(type='Evaluator', metrics=cfg.val_evaluator))
    assert (len(train), len(val)) == (4, 2)
    for dataset in (train, val):
        assert len(dataset.metainfo['classes']) == head_classes(cfg)
        item = dataset[0]
        assert item['inputs'].dtype == torch.uint8 and item['inputs'].ndim == 3
        labels = item['data_samples'].gt_sem_seg.data.unique().tolist()
        # background is 0, digit d is d + 1, the edge of a digit belongs to nobody
        assert {0, 255} < set(labels) <= {*range(11), 255}


@pytest.mark.parametrize('name', [name for name in NAMES if name.startswith('segmentation/')])
def test_recipe_is_mmsegs(name):
    theirs = BASELINES[name].split('/')[1]
    if 'swin' in theirs:
        theirs = 'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'
    else:
        theirs = f'{"sem_fpn" if theirs.startswith("fpn") else "upernet"}/{theirs}'
    changed = ['model.backbone', 'model.pretrained']
    if 'swin' in theirs and '80k' in name:
        changed += ['train_cfg', 'param_scheduler.1.end', 'default_hooks.checkpoint']
    same_recipe(read(name), get_config(f'mmseg::{theirs}'), *changed)


def test_swin_80k_is_half_of_160k_as_in_mmseg():
    cfg = read('segmentation/upernet_swin-t-scsa_8xb2-80k_ade20k-512x512.py')
    theirs = get_config('mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py')
    for part in ('train_cfg', 'default_hooks'):
        assert flat(cfg[part].to_dict()) == flat(theirs[part].to_dict())
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters


@pytest.mark.parametrize('name', PAIRS)
def test_baseline_has_the_same_recipe(name):
    ours, plain = read(name), read(BASELINES[name])
    same_recipe(ours, plain, 'model.backbone')
    same = set(plain.model.backbone) - {'type', 'init_cfg'}
    assert all(ours.model.backbone[key] == plain.model.backbone[key] for key in same)


def test_class_names_are_the_composers():
    cfg = read('quickstart/fpn_r18_scenes.py')
    assert cfg.train_dataloader.dataset.metainfo.classes == SEGMENTATION_CLASSES


def test_odd_image_size():
    """512 x 683: maps of 171, 86, 43 and 22 columns, which no window of seven divides."""
    ours = build(read('segmentation/upernet_r50-scsa_4xb4-160k_ade20k-512x512.py')).eval()
    plain = build(read('segmentation/upernet_r50_4xb4-160k_ade20k-512x512.py')).eval()
    image = torch.randn(1, 3, 512, 683)
    with torch.no_grad():
        (result,) = ours(image, mode='predict')
        maps = [level.shape for level in ours.backbone(image)]
        assert maps == [level.shape for level in plain.backbone(image)]
    assert [shape[2:] for shape in maps] == [(128, 171), (64, 86), (32, 43), (16, 22)]
    assert result.seg_logits.data.shape == (150, 512, 683)
    assert result.seg_logits.data.isfinite().all()

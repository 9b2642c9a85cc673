"""Every detection config builds, predicts, reads its data, and keeps the recipe it names."""

from __future__ import annotations

import json

import pytest
import torch
from config_helpers import (
    build,
    config_names,
    detection_batch,
    documented_parameters,
    head_classes,
    read,
    same_recipe,
    train_one_step,
)
from mmengine.hub import get_config
from mmengine.registry import DATASETS, EVALUATOR, METRICS, DefaultScope

from scsa import SCSA
from scsa.analysis.complexity import count_parameters
from scsa.datasets import digit_scenes, exdark, flir, visdrone
from scsa.engine.agreement import outputs_of

pytest.importorskip('mmcv.ops', reason='mmdet needs mmcv with its compiled operators')
pytest.importorskip('mmdet')

QUICKSTART = config_names('quickstart/*rcnn*.py', 'quickstart/retinanet*.py')
NAMES = config_names('detection/*.py') + QUICKSTART
BASELINES = {name: name.replace('-scsa', '').replace('_scsa', '') for name in NAMES}
PAIRS = [name for name, plain in BASELINES.items() if plain != name and plain in NAMES]
TRAINED = [
    'detection/cascade-rcnn_r50-scsa_fpn_1x_voc0712.py',
    'detection/faster-rcnn_r50-scsa_fpn_1x_visdrone.py',
    'detection/mask-rcnn_swin-t-scsa_fpn_1x_coco.py',
    'detection/retinanet_mobilenet-v2-scsa_fpn_1x_coco.py',
    'quickstart/mask-rcnn_r18_scenes_scsa.py',
]


@pytest.mark.parametrize('name', NAMES)
def test_predicts(name):
    cfg = read(name)
    model = build(cfg).eval()
    assert set(outputs_of(model).values()) == {head_classes(cfg)}  # else no run would start
    batch = model.data_preprocessor(detection_batch(64, 64))
    with torch.no_grad():
        (result,) = model(**batch, mode='predict')
    found = result.pred_instances
    assert found.bboxes.shape == (len(found.labels), 4)
    assert ((found.labels >= 0) & (found.labels < head_classes(cfg))).all()
    assert found.bboxes.isfinite().all()
    attentions = [module for module in model.modules() if isinstance(module, SCSA)]
    assert bool(attentions) == ('scsa' in name)
    assert documented_parameters(name) == count_parameters(model)


@pytest.mark.parametrize('name', TRAINED)
def test_takes_a_training_step(name):
    model = build(read(name))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    losses = train_one_step(model, detection_batch(64, 64, images=2))
    assert all(value.isfinite() for value in losses.values())
    after = model.state_dict()
    # The last stage is never frozen.
    moved = [k for k in before if 'norm_h.weight' in k and not torch.equal(before[k], after[k])]
    attentions = sum(isinstance(module, SCSA) for module in model.modules())
    frozen = sum('norm_h.weight' in n and not p.requires_grad for n, p in model.named_parameters())
    assert len(moved) == attentions - frozen > 0


@pytest.mark.parametrize('name', NAMES)
def test_reads_its_data(name, data_root, monkeypatch):
    """Nothing is overridden: data_root, file names and classes are those of the documented tree."""
    monkeypatch.chdir(data_root)
    cfg = read(name)
    with DefaultScope.overwrite_default_scope('mmdet'):
        train = DATASETS.build(cfg.train_dataloader.dataset)
        val = DATASETS.build(cfg.val_dataloader.dataset)
        test = DATASETS.build(cfg.test_dataloader.dataset)
        for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
            EVALUATOR.build(dict(type='Evaluator', metrics=evaluator)).dataset_meta = val.metainfo
    for dataset in (train, val, test):
        assert len(dataset.metainfo['classes']) == head_classes(cfg)
        assert len(dataset) > 0
        item = dataset[0]
        assert item['inputs'].dtype == torch.uint8 and item['inputs'].ndim == 3
    truth = train[0]['data_samples'].gt_instances
    assert len(truth) > 0
    assert (truth.labels < head_classes(cfg)).all()
    assert ('masks' in truth) == ('mask' in name or name in QUICKSTART)


@pytest.mark.parametrize('name', [name for name in NAMES if name.endswith('_1x_coco.py')])
def test_coco_recipe_is_mmdets(name):
    theirs = name.split('/')[1].replace('-scsa', '')
    folder = theirs.split('_')[0].replace('-', '_')
    changed = ('model.backbone',)
    if 'swin' in theirs:
        folder, theirs = 'swin', theirs.replace('swin-t', 'swin-t-p4-w7')
    if 'mobilenet' in theirs:
        theirs, changed = theirs.replace('mobilenet-v2', 'r50'), ('model.backbone', 'model.neck')
    same_recipe(read(name), get_config(f'mmdet::{folder}/{theirs}'), *changed)


@pytest.mark.parametrize('name', PAIRS)
def test_baseline_has_the_same_recipe(name):
    ours, plain = read(name), read(BASELINES[name])
    same_recipe(ours, plain, 'model.backbone')
    same = set(plain.model.backbone) - {'type', 'init_cfg'}
    assert all(ours.model.backbone[key] == plain.model.backbone[key] for key in same)


@pytest.mark.parametrize('name', ['faster-rcnn', 'retinanet'])
def test_voc_recipe_is_mmdets(name):
    theirs = get_config(f'mmdet::pascal_voc/{name}_r50_fpn_1x_voc0712.py')
    same_recipe(read(f'detection/{name}_r50_fpn_1x_voc0712.py'), theirs, 'model.backbone')


def test_class_names_are_the_converters():
    """A config cannot import them: mmengine would take it for one of its new-style configs."""
    for module, suffix in ((visdrone, 'visdrone'), (exdark, 'exdark'), (flir, 'flir')):
        cfg = read(f'detection/retinanet_r50_fpn_1x_{suffix}.py')
        assert cfg.train_dataloader.dataset.metainfo.classes == module.CLASSES
        assert cfg.val_dataloader.dataset.metainfo.classes == module.CLASSES
    cfg = read('quickstart/retinanet_r18_scenes.py')
    assert cfg.train_dataloader.dataset.metainfo.classes == digit_scenes.CLASSES


def test_image_of_coco_size():
    """800 x 1333 is padded to 800 x 1344: maps that no window of seven divides."""
    ours = build(read('detection/faster-rcnn_r50-scsa_fpn_1x_coco.py')).eval()
    plain = build(get_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')).eval()
    batch = ours.data_preprocessor(detection_batch(800, 1333))
    assert batch['inputs'].shape == (1, 3, 800, 1344)
    with torch.no_grad():
        (result,) = ours(**batch, mode='predict')
        maps = [level.shape for level in ours.backbone(batch['inputs'])]
        assert maps == [level.shape for level in plain.backbone(batch['inputs'])]
    assert result.pred_instances.bboxes.isfinite().all()


@pytest.mark.parametrize('evaluator', ['val_evaluator', 'test_evaluator'])
def test_visdrone_counts_all_its_detections(evaluator, tmp_path):
    """300 perfect detections in one image are a mAP of one; at COCO's 100 it is a third."""
    cfg = read('detection/faster-rcnn_r50_fpn_1x_visdrone.py')
    boxes = [[x * 30, y * 30, 20, 20] for y in range(15) for x in range(20)]
    truth = dict(
        images=[dict(id=1, width=600, height=450, file_name='scene.jpg')],
        categories=[dict(id=i, name=name) for i, name in enumerate(visdrone.CLASSES, 1)],
        annotations=[
            dict(id=i, image_id=1, category_id=1, bbox=box, area=400, iscrowd=0)
            for i, box in enumerate(boxes, 1)
        ],
    )
    path = tmp_path / 'truth.json'
    path.write_text(json.dumps(truth))
    corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes], dtype=torch.float32)
    found = dict(bboxes=corners, scores=torch.ones(300), labels=torch.zeros(300, dtype=torch.long))
    with DefaultScope.overwrite_default_scope('mmdet'):
        metric = METRICS.build(dict(cfg[evaluator], ann_file=str(path)))
    metric.dataset_meta = dict(classes=visdrone.CLASSES)
    metric.process({}, [dict(pred_instances=found, img_id=1, ori_shape=(450, 600))])
    assert metric.evaluate(1)['coco/bbox_mAP'] == 1.0


@pytest.mark.parametrize(
    'name', config_names(*(f'detection/retinanet*{d}.py' for d in ('visdrone', 'exdark', 'flir')))
)
def test_retinanet_has_mmdets_augmentation_in_testing(name):
    ours, theirs = read(name), get_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    assert ours.tta_pipeline == theirs.tta_pipeline
    detections = ours.model.test_cfg.max_per_img
    assert ours.tta_model == dict(
        theirs.tta_model, tta_cfg=dict(theirs.tta_model.tta_cfg, max_per_img=detections)
    )

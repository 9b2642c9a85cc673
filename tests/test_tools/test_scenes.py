"""Train and test detection and segmentation through the tools, end to end, on the digit scenes."""

import json
import pickle

import pytest
import torch
from matplotlib.image import imread
from tools_helpers import CONFIG, DETECTION, SEGMENTATION, refusal, run_tool, tiny_scenes

pytest.importorskip('mmcv.ops', reason='mmdet and mmseg need mmcv with its compiled operators')
pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope

CLASSIFIER = CONFIG  # whose weights segmentation starts from


def predicted(config, checkpoint, work_dir):
    """What the checkpoint says in this process, to compare with what the tool wrote."""
    cfg = Config.fromfile(next(work_dir.glob('*.py')))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model).eval()
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    model.load_state_dict(
        torch.load(checkpoint, map_location='cpu', weights_only=False)['state_dict']
    )
    item = dataset[0]
    with torch.no_grad():
        batch = dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
        return model.test_step(batch)[0]


@pytest.mark.long
@pytest.mark.parametrize(
    ('config', 'checkpoint'), [(DETECTION, 'epoch_1.pth'), (SEGMENTATION, 'iter_2.pth')]
)
def test_train_then_test(config, checkpoint, scenes, tmp_path):
    shrunk = tiny_scenes(scenes, config)
    log = run_tool('tools/train.py', config, '--work-dir', tmp_path / 'train', *shrunk)
    assert 'Traceback' not in log
    weights = tmp_path / 'train' / checkpoint
    out, shown = tmp_path / 'out.pkl', tmp_path / 'shown'
    run_tool(
        'tools/test.py', config, weights, '--work-dir', tmp_path / 'test',
        '--out', out, '--show-dir', shown, *shrunk,
    )  # fmt: skip
    # Drawn: each of the three images of the validation set.
    assert len([*shown.rglob('*.png'), *shown.rglob('*.jpg')]) == 3
    picture = tmp_path / 'picture.png'
    run_tool('tools/analysis/scene_pictures.py', config, weights, picture, '--count', 2, *shrunk)
    assert imread(picture).shape[:2] == (444, 408)  # two columns of truth and prediction
    first = pickle.loads(out.read_bytes())[0]
    again = predicted(config, weights, tmp_path / 'test')
    if config == DETECTION:
        boxes, expected = first['pred_instances']['bboxes'], again.pred_instances.bboxes
        assert len(expected) > 0
    else:
        boxes, expected = first['seg_logits']['data'], again.seg_logits.data
    torch.testing.assert_close(boxes, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    'config',
    [
        'configs/detection/faster-rcnn_r50-scsa_fpn_1x_coco.py',
        'configs/segmentation/upernet_r50-scsa_4xb4-80k_ade20k-512x512.py',
    ],
)
def test_missing_imagenet_weights_are_one_line(config, scenes, monkeypatch, capsys):
    """With data in place, what is missing is the file that `pretrained` names."""
    root = scenes / 'ade' if 'segmentation' in config else scenes
    data = [f'{part}_dataloader.dataset.data_root={root}' for part in ('train', 'val')]
    if 'detection' in config:
        for part in ('train', 'val'):
            data.append(f'{part}_dataloader.dataset.ann_file=annotations/instances_{part}.json')
            data.append(f'{part}_dataloader.dataset.data_prefix.img={part}/')
        data.append(f'val_evaluator.ann_file={scenes}/annotations/instances_val.json')
    line = refusal(monkeypatch, capsys, 'tools/train.py', config, '--cfg-options', *data)
    assert 'checkpoints/resnet50_1xb128_in1k_scsa.pth' in line
    assert 'model.backbone.init_cfg' in line


def train_for_real(config, work_dir, tmp_path_factory):
    """The whole quick start; returns the last validation."""
    name = 'digits' if config == CLASSIFIER else 'digit_scenes'
    data = tmp_path_factory.getbasetemp() / 'whole' / name
    if not data.exists():
        run_tool(f'tools/dataset_converters/{name}.py', '--out', data)
    root = data / 'ade' if config == SEGMENTATION else data
    arguments = [f'{part}_dataloader.dataset.data_root={root}' for part in ('train', 'val')]
    if config == SEGMENTATION:
        train_for_real(CLASSIFIER, work_dir / 'classifier', tmp_path_factory)
        start = work_dir / 'classifier/epoch_10.pth'
        arguments.append(f'model.backbone.init_cfg.checkpoint={start}')
    if config == DETECTION:
        arguments.append(f'val_evaluator.ann_file={data}/annotations/instances_val.json')
    run_tool('tools/train.py', config, '--work-dir', work_dir, '--cfg-options', *arguments)
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    return json.loads(scalars.read_text().splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'metric', 'bar'), [(DETECTION, 'coco/bbox_mAP_50', 0.6), (SEGMENTATION, 'mIoU', 50)]
)
def test_quick_start_learns(config, metric, bar, tmp_path, tmp_path_factory):
    assert train_for_real(config, tmp_path, tmp_path_factory)[metric] >= bar

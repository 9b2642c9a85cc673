"""What a person can mend is one line that says what is missing and what to do, and exit code 2."""

import pytest
import torch
from tools_helpers import CONFIG, ROOT, refusal, tiny

TRAIN, TEST = 'tools/train.py', 'tools/test.py'


@pytest.fixture
def refused(monkeypatch, capsys):
    return lambda *arguments: refusal(monkeypatch, capsys, *arguments)


def test_a_missing_config(refused):
    line = refused(TRAIN, 'configs/none.py')
    assert line.startswith('error: config not found: configs/none.py; ')


def test_a_config_that_cannot_be_read(refused, tmp_path):
    path = tmp_path / 'broken.py'
    path.write_text("_base_ = './none.py'\n")
    assert 'cannot be read: FileNotFoundError' in refused(TRAIN, path)
    path.write_text('model = dict(\n')
    assert 'cannot be read' in refused(TRAIN, path)


def test_a_missing_checkpoint(refused, digits):
    assert 'checkpoint not found: none.pth' in refused(TEST, CONFIG, 'none.pth')
    line = refused(TRAIN, CONFIG, '--resume', 'none.pth', *tiny(digits))
    assert 'checkpoint not found: none.pth; give another to --resume' in line


def test_a_missing_data_root(refused, tmp_path):
    line = refused(TRAIN, CONFIG, *tiny(tmp_path / 'none'))
    assert f'data root not found: {tmp_path}/none; set train_dataloader.dataset.data_root' in line
    assert 'docs/datasets.md' in line


def test_all_that_is_missing_is_one_message(refused, tmp_path):
    config = 'configs/detection/faster-rcnn_r50_fpn_1x_visdrone.py'
    line = refused(TRAIN, config, '--cfg-options', f'data_root={tmp_path}/none')
    assert f'data root not found: {tmp_path}/none; set train_dataloader.dataset.data_root' in line
    assert f'{tmp_path}/none/annotations/instances_val.json; set val_evaluator.ann_file' in line
    assert 'pretrained weights not found: checkpoints/resnet50_1xb128_in1k.pth' in line
    assert 'python tools/train.py configs/classification/resnet50_1xb128_in1k.py' in line
    assert line.count('not found') == 3


@pytest.mark.parametrize(
    'config',
    [
        'classification/resnet50_1xb128_in1k_scsa.py',
        'classification/swin-tiny_16xb64_in1k.py',
        'detection/faster-rcnn_r50_fpn_1x_exdark.py',
        'detection/faster-rcnn_r50_fpn_1x_voc0712.py',
        'detection/retinanet_r50-scsa_fpn_1x_coco.py',
        'quickstart/faster-rcnn_r18_scenes.py',
        'quickstart/fpn_r18_scenes.py',
        'quickstart/resnet18_digits.py',
        'segmentation/fpn_r50_4xb4-160k_ade20k-512x512.py',
    ],
)
def test_data_root_alone_moves_every_loader_and_evaluator(config):
    pytest.importorskip('mmdet')
    from mmengine.config import Config

    from scsa.engine.config import move_data

    cfg = Config.fromfile(ROOT / 'configs' / config)
    move_data(cfg, '/elsewhere')
    parts = [f'{a}_{b}' for a in ('train', 'val', 'test') for b in ('dataloader', 'evaluator')]
    text = ' '.join(str(cfg.get(part)) for part in parts)
    assert "'data/" not in text and "'/elsewhere" in text


def test_data_root_that_cannot_stand_for_all_is_refused(refused, tmp_path):
    path = tmp_path / 'two.py'
    loaders = [f"{s}_dataloader = dict(dataset=dict(data_root='{s}'))" for s in ('train', 'val')]
    path.write_text('\n'.join(loaders))
    line = refused(TRAIN, path, '--cfg-options', 'data_root=/elsewhere')
    assert 'set train_dataloader.dataset.data_root, val_dataloader.dataset.data_root' in line


def test_imagenet_without_its_folders(refused, tmp_path):
    config = 'configs/classification/resnet50_1xb128_in1k_scsa.py'
    options = [f'train_dataloader.dataset.data_root={tmp_path}']
    line = refused(TRAIN, config, '--cfg-options', *options)
    assert f'data folder not found: {tmp_path}/train' in line


def test_a_missing_annotation_file(refused, digits):
    line = refused(TRAIN, CONFIG, *tiny(digits, 'train_dataloader.dataset.ann_file=none.txt'))
    assert f'annotation file not found: {digits}/none.txt; train_dataloader.dataset' in line


def test_missing_pretrained_weights(refused, digits):
    line = refused(
        TRAIN, CONFIG,
        *tiny(digits, 'model.backbone.init_cfg.type=Pretrained',
              'model.backbone.init_cfg.checkpoint=none.pth'),
    )  # fmt: skip
    assert 'pretrained weights not found: none.pth; set model.backbone.init_cfg.checkpoint' in line


def test_an_unknown_class_name(refused, digits, tmp_path):
    options = tiny(digits, 'model.backbone.type=ResNetSCSAA')
    line = refused(TRAIN, CONFIG, '--work-dir', tmp_path, *options)
    assert "unknown class name 'ResNetSCSAA'" in line and 'custom_imports' in line


def test_arguments_that_a_class_refuses(refused, digits, tmp_path):
    options = tiny(digits, 'model.backbone.scsa_cfg.head_num=3')
    line = refused(TRAIN, CONFIG, '--work-dir', tmp_path, *options)
    assert 'dim=8 is not divisible by head_num=3' in line


def test_a_checkpoint_that_does_not_fit(refused, digits, tmp_path):
    from scsa.backbones import ResNetSCSA

    state = {f'backbone.{k}': v for k, v in ResNetSCSA(34).state_dict().items()}
    torch.save({'state_dict': state, 'meta': {}}, tmp_path / 'other.pth')
    line = refused(TEST, CONFIG, tmp_path / 'other.pth', '--work-dir', tmp_path, *tiny(digits))
    assert 'fits neither ResNetSCSA nor its plain parent' in line


@pytest.mark.skipif(torch.cuda.is_available(), reason='here is a device for mixed precision')
def test_mixed_precision_without_a_device(refused, digits):
    line = refused(TRAIN, CONFIG, '--amp', *tiny(digits))
    assert line == 'error: mixed precision needs a GPU and there is none; leave out --amp'
    line = refused(TRAIN, 'configs/classification/resnet101_1xb128_in1k_scsa.py')
    assert 'add --cfg-options optim_wrapper.type=OptimWrapper' in line


@pytest.mark.skipif(torch.cuda.is_available(), reason='with GPUs the slurm launcher is fine')
def test_a_launcher_that_needs_gpus(refused, digits):
    line = refused(TRAIN, CONFIG, '--launcher', 'slurm', *tiny(digits))
    assert '--launcher slurm needs GPUs' in line


@pytest.mark.parametrize('tool', [TRAIN, TEST])
def test_a_launcher_that_nothing_has_launched(tool, refused, digits, tmp_path, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    (tmp_path / 'c.pth').touch()
    checkpoint = [tmp_path / 'c.pth'] if tool == TEST else []
    line = refused(tool, CONFIG, *checkpoint, '--launcher', 'pytorch', *tiny(digits))
    assert line.startswith('error: --launcher pytorch needs processes started by torchrun')


def test_a_setting_without_a_value(refused):
    line = refused(TRAIN, '--cfg-options', 'randomness.seed=1', CONFIG)
    assert line.startswith(f'error: --cfg-options {CONFIG}: give KEY=VALUE; the config')


def test_scaling_the_learning_rate_needs_a_base(refused, digits):
    line = refused(TRAIN, CONFIG, '--auto-scale-lr', *tiny(digits))
    assert '--auto-scale-lr needs auto_scale_lr.base_batch_size' in line
    assert 'optim_wrapper.accumulative_counts' in line


@pytest.mark.parametrize(
    ('processes', 'counts', 'enable', 'noted'),
    [(1, 1, False, True), (8, 1, False, False), (2, 4, False, False), (1, 1, True, False)],
)
def test_a_batch_that_the_learning_rate_is_not_for(processes, counts, enable, noted):
    from mmengine.config import Config

    from scsa.engine.config import batch_note

    cfg = Config(
        dict(
            train_dataloader=dict(batch_size=2),
            optim_wrapper=dict(accumulative_counts=counts),
            auto_scale_lr=dict(base_batch_size=16, enable=enable),
        )
    )
    note = batch_note(cfg, processes)
    assert bool(note) == noted
    if noted:
        assert note.startswith('a step takes 2 images, but the learning rate is for 16: ')
        assert '--auto-scale-lr' in note


def test_an_output_of_unknown_kind(refused, tmp_path):
    checkpoint = tmp_path / 'c.pth'
    checkpoint.touch()
    line = refused(TEST, CONFIG, checkpoint, '--out', 'results.txt')
    assert 'give a .pkl for predictions or a .json for metrics' in line


def test_the_digits_are_not_made_smaller_than_they_are(refused, tmp_path):
    line = refused('tools/dataset_converters/digits.py', '--out', tmp_path, '--size', '4')
    assert 'the scans have 8 pixels a side' in line

"""The three golden cases, loaded as a user loads a published checkpoint."""

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from numerics import Golden


@pytest.fixture(params=Golden.names, scope='module')
def golden(request):
    return Golden(request.param)


def build(golden, **kwargs):
    return MODELS.build(dict(golden.backbone, **kwargs))


def test_keys_shapes_and_their_order_are_the_published_ones(golden):
    state = build(golden).state_dict()
    # The order too: the state of an optimizer in a checkpoint goes by it.
    assert {key: list(value.shape) for key, value in state.items()} == golden.keys
    assert list(state) == list(golden.keys)


def test_number_of_parameters(golden):
    assert sum(p.numel() for p in build(golden).parameters()) == golden.params


@pytest.mark.parametrize('way', ['load_state_dict', 'mmengine', 'init_cfg'])
def test_outputs_of_published_weights(golden, way, tmp_path):
    path = tmp_path / 'published.pth'
    if way == 'init_cfg':
        # A checkpoint of the whole classifier, as published runs write it.
        weights = {f'backbone.{key}': value for key, value in golden.weights.items()}
        torch.save({'state_dict': weights, 'meta': {}}, path)
        init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
        model = build(golden, init_cfg=init_cfg)
        model.init_weights()
    else:
        model = build(golden)
        if way == 'load_state_dict':
            model.load_state_dict(golden.weights)
        else:
            torch.save({'state_dict': golden.weights, 'meta': {}}, path)
            load_checkpoint(model, str(path), strict=True)
    with torch.no_grad():
        assert golden.distance(model.eval()(golden.image)) < 1e-5


@pytest.mark.parametrize(
    ('backbone', 'channels', 'total'),
    [
        (dict(type='ResNetSCSA', depth=50), 2048, 25_617_448),
        (dict(type='ResNetSCSA', depth=101), 2048, 44_679_208),
        (dict(type='MobileNetV2SCSA'), 1280, 3_619_048),
        (dict(type='mmpretrain.ResNet', depth=50), 2048, 25_557_032),
        (dict(type='mmpretrain.ResNet', depth=101), 2048, 44_549_160),
        (dict(type='mmpretrain.MobileNetV2'), 1280, 3_504_872),
    ],
)
def test_totals_with_the_head_of_imagenet(backbone, channels, total):
    from mmpretrain.registry import MODELS

    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=backbone,
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=1000, in_channels=channels),
        )
    )
    assert sum(p.numel() for p in model.parameters()) == total

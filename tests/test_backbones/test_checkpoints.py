"""Plain weights load, with only SCSA's keys missing; what fits neither is refused."""

import copy
import re
import sys
from pathlib import Path

import pytest
import torch
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.models import MobileNetV2, ResNet, SwinTransformer
from numerics import distance, randomise

from scsa import SCSA
from scsa.backbones import MobileNetV2SCSA, ResNetSCSA, SwinTransformerSCSA
from scsa.backbones.checkpoint import CheckpointMismatch

PAIRS = {
    'resnet18': (ResNet, ResNetSCSA, dict(depth=18)),
    'resnet50': (ResNet, ResNetSCSA, dict(depth=50)),
    'resnet50, deep stem': (ResNet, ResNetSCSA, dict(depth=50, deep_stem=True, avg_down=True)),
    'mobilenet': (MobileNetV2, MobileNetV2SCSA, dict()),
    'mobilenet 1.4': (MobileNetV2, MobileNetV2SCSA, dict(widen_factor=1.4)),
    'swin': (SwinTransformer, SwinTransformerSCSA, dict(arch='tiny')),
}


def scsa_keys(model):
    names = tuple(f'{n}.' for n, m in model.named_modules() if isinstance(m, SCSA))
    return [key for key in model.state_dict() if key.startswith(names)]


def neutral(model):
    """Turn every SCSA into the identity: a backbone is then its plain parent."""
    for module in model.modules():
        if isinstance(module, SCSA):
            module.forward = lambda x: x
    return model.eval()


@pytest.mark.parametrize('pair', PAIRS)
@pytest.mark.parametrize('way', ['load_state_dict', 'mmengine', 'init_cfg'])
def test_plain_weights_load_with_only_the_keys_of_scsa_missing(pair, way, tmp_path):
    plain_class, scsa_class, options = PAIRS[pair]
    plain = plain_class(**options)
    plain.eval()
    path = str(tmp_path / 'plain.pth')
    if way == 'load_state_dict':
        model = scsa_class(**options)
        found = model.load_state_dict(plain.state_dict(), strict=False)
        assert found.missing_keys == scsa_keys(model)
        assert found.unexpected_keys == []
    elif way == 'mmengine':
        torch.save({'state_dict': plain.state_dict()}, path)
        model = scsa_class(**options)
        load_checkpoint(model, path, logger='silent')
    else:
        state = {f'backbone.{key}': value for key, value in plain.state_dict().items()}
        torch.save({'state_dict': state}, path)
        init_cfg = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
        model = scsa_class(**options, init_cfg=init_cfg)
        model.init_weights()
    image = torch.randn(1, 3, 64, 96)
    if 'swin' in pair:
        image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert distance(neutral(model)(image)[0], plain(image)[0]) < 1e-6


def test_a_resnet50_of_torchvisions_layout_loads():
    torchvision = pytest.importorskip('torchvision', reason='comes with the paper environment')
    theirs = torchvision.models.resnet50(weights=None)
    model = ResNetSCSA(50)
    found = model.load_state_dict(theirs.state_dict(), strict=False)
    assert found.missing_keys == scsa_keys(model) and found.unexpected_keys == []
    with torch.no_grad():
        image = torch.randn(1, 3, 64, 64)
        expected = theirs.eval()(image)
        pooled = neutral(model)(image)[0].mean((2, 3))
        assert distance(theirs.fc(pooled), expected) < 1e-5


def test_loading_leaves_the_callers_state_dict_alone():
    state = MobileNetV2().state_dict()
    before = list(state)
    MobileNetV2SCSA().load_state_dict(state, strict=False)
    assert list(state) == before


def test_old_swin_checkpoints_are_read_as_the_parent_reads_them():
    plain = SwinTransformer(arch='tiny')
    state = {
        key.replace('norm3.', 'norm.') if key.startswith('norm3.') else key: value
        for key, value in plain.state_dict().items()
    }
    state['stages.0.blocks.1.attn.attn_mask'] = torch.zeros(64, 49, 49)
    model = SwinTransformerSCSA(arch='tiny')
    found = model.load_state_dict(state, strict=False)
    assert found.missing_keys == scsa_keys(model) and found.unexpected_keys == []


@pytest.mark.skipif(
    sys.version_info >= (3, 13),
    reason="the first SciPy for Python 3.13 has no interp2d, which mmpretrain's Swin calls",
)
def test_a_classifiers_swin_loads_into_a_detectors():
    plain = SwinTransformer(arch='tiny')
    model = SwinTransformerSCSA(arch='tiny', out_indices=(0, 1, 2, 3), window_size=8)
    found = model.load_state_dict(plain.state_dict(), strict=False)
    lacking = [key for key in found.missing_keys if key not in scsa_keys(model)]
    assert all(k.startswith('norm') or k.endswith('relative_position_index') for k in lacking)


@pytest.mark.parametrize(
    ('model', 'state', 'message'),
    [
        (lambda: ResNetSCSA(50), lambda: ResNetSCSA(18).state_dict(), 'conv1.weight is'),
        (lambda: ResNetSCSA(50), lambda: ResNetSCSA(101).state_dict(), 'is not in the model'),
        (lambda: ResNetSCSA(50), lambda: ResNet(101).state_dict(), 'is not in the model'),
        (lambda: ResNetSCSA(18), lambda: {'a': torch.zeros(1)}, 'conv1.weight is missing'),
        (
            lambda: ResNetSCSA(18),
            lambda: ResNetSCSA(18, scsa_cfg=dict(qkv_bias=True)).state_dict(),
            'attn.q.bias is not in the model',
        ),
        (
            lambda: MobileNetV2SCSA(),
            lambda: MobileNetV2(widen_factor=0.5).state_dict(),
            r'conv1.conv.weight is \(16, 3, 3, 3\) and not \(32, 3, 3, 3\)',
        ),
        (
            lambda: ResNetSCSA(18),
            lambda: {f'backbone.{k}': v for k, v in ResNet(18).state_dict().items()},
            r"pass prefix='backbone\.'",
        ),
    ],
)
def test_a_checkpoint_that_fits_neither_is_refused_by_the_first_differences(model, state, message):
    model, state = model(), state()
    for load in (
        lambda: model.load_state_dict(state, strict=False),
        lambda: load_state_dict(model, state),
    ):
        with pytest.raises(CheckpointMismatch, match=message):
            load()


def test_a_partial_scsa_checkpoint_is_refused():
    state = ResNetSCSA(18).state_dict()
    del state['layer1.0.attn.q.weight']
    with pytest.raises(CheckpointMismatch, match=r'1 differences, first: layer1\.0\.attn\.q'):
        ResNetSCSA(18).load_state_dict(state, strict=False)


def test_a_model_may_load_a_checkpoint_without_its_backbone():
    model = torch.nn.ModuleDict(dict(backbone=ResNetSCSA(18), head=torch.nn.Linear(2, 2)))
    load_state_dict(model, {'head.weight': torch.zeros(2, 2)}, logger='silent')
    assert (model.head.weight == 0).all()


@pytest.mark.parametrize('pair', PAIRS)
def test_a_round_trip_and_a_deepcopy_change_nothing(pair):
    _, scsa_class, options = PAIRS[pair]
    model = scsa_class(**options).eval()
    again = scsa_class(**options).eval()
    again.load_state_dict(copy.deepcopy(model).state_dict())
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(again(image), model(image), rtol=0, atol=0)


def test_the_readme_loads_one_module_of_a_checkpoint(tmp_path, monkeypatch):
    readme = Path(__file__).parents[2].joinpath('README.md').read_text('utf-8')
    (code,) = re.findall(
        r'```python\n(from scsa\.engine\.safe_load import load.*?)```', readme, re.S
    )
    assert len([line for line in code.splitlines() if line]) == 3
    model = randomise(ResNetSCSA(50))
    state = {f'backbone.{key}': value for key, value in model.state_dict().items()}
    torch.save({'state_dict': state, 'meta': {}}, tmp_path / 'epoch_100.pth')
    monkeypatch.chdir(tmp_path)
    attn = SCSA(64).eval()
    exec(code, dict(torch=torch, attn=attn))
    x = torch.randn(2, 64, 9, 12)
    torch.testing.assert_close(attn(x), model.layer1[0].attn.eval()(x))

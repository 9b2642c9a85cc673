"""SCSA as a plugin layer of mmdet's and mmseg's own backbones."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from scsa import SCSA
from scsa.backbones import ResNetSCSA

pytest.importorskip('mmcv.ops', reason='mmdet and mmseg need mmcv with its compiled operators')
pytest.importorskip('mmdet.models')
pytest.importorskip('mmseg.models')


def build(scope: str, stages=(True,) * 4, channel_ratio=1.0, **backbone) -> torch.nn.Module:
    plugin = dict(
        cfg=dict(type='SCSA', channel_ratio=channel_ratio), stages=stages, position='after_conv2'
    )
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(dict(plugins=[plugin], **backbone))


def varied(module: torch.nn.Module) -> torch.nn.Module:
    """Draws all parameters and statistics anew, so that no part is an identity by its start."""
    for value in module.state_dict().values():
        if value.is_floating_point():
            torch.nn.init.uniform_(value, 0.5, 1.5) if value.dim() == 1 else value.mul_(1.5)
    return module


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_equals_our_backbone(scope):
    ours = varied(ResNetSCSA(50, out_indices=(0, 1, 2, 3)))
    theirs = build(scope, type='ResNet', depth=50)
    assert theirs.state_dict().keys() == ours.state_dict().keys()
    assert len(ours.state_dict()) == 590
    theirs.load_state_dict(ours.state_dict())
    for backbone in (ours, theirs):
        backbone.eval()
    image = torch.randn(2, 3, 96, 128)
    with torch.no_grad():
        for expected, got in zip(ours(image), theirs(image)):
            assert (expected - got).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize(
    ('scope', 'backbone'),
    [
        ('mmdet', dict(type='ResNeXt', depth=50, groups=32, base_width=4)),
        ('mmdet', dict(type='Res2Net', depth=50, channel_ratio=26 * 4 / 64)),
        ('mmseg', dict(type='ResNetV1c', depth=50)),
        ('mmseg', dict(type='ResNeXt', depth=50, groups=32, base_width=4, channel_ratio=2)),
    ],
)
def test_every_block_attends_and_learns(scope, backbone):
    model = build(scope, **backbone)
    attentions = [module for module in model.modules() if isinstance(module, SCSA)]
    assert len(attentions) == 3 + 4 + 6 + 3
    sum(level.mean() for level in model(torch.randn(2, 3, 64, 64))).backward()
    for attention in attentions:
        assert attention.norm_h.weight.grad.abs().sum() > 0


def test_only_the_chosen_stages():
    model = build('mmdet', type='ResNet', depth=50, stages=(False, False, True, True))
    names = [name for name, module in model.named_modules() if isinstance(module, SCSA)]
    assert len(names) == 6 + 3
    assert all(name.startswith(('layer3.', 'layer4.')) for name in names)


def test_width_that_res2net_announces_wrongly():
    """Without `channel_ratio` the error says how many channels the map has."""
    model = build('mmdet', type='Res2Net', depth=50)
    with pytest.raises(ValueError, match='104'):
        model(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize(
    'cfg',
    [
        dict(type='SMSA'),
        dict(type='PCSA', window_size=3),
        dict(type='UnsharedSCSA'),
        dict(type='TimmAttention', name='se'),
        dict(type='TimmAttention', name='coord'),
    ],
)
@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_other_attentions_are_plugins_too(scope, cfg):
    if cfg['type'] == 'TimmAttention':
        pytest.importorskip('timm', reason='timm is an extra: pip install timm')
    plugin = dict(cfg=cfg, stages=(True,) * 4, position='after_conv2')
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(dict(type='ResNet', depth=50, plugins=[plugin]))
    ours = ResNetSCSA(50, attn_cfg=cfg, out_indices=(0, 1, 2, 3))
    assert model.state_dict().keys() == ours.state_dict().keys()
    sum(level.mean() for level in model(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in model.layer4[2].attn.parameters())

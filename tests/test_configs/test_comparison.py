"""The ablation and comparison configs: short, the same recipe, another attention."""

from __future__ import annotations

import pytest
import torch
from config_helpers import CONFIGS, ROOT, config_names

pytest.importorskip('mmpretrain', reason='the configs are those of OpenMMLab')
from mmengine.config import Config
from mmpretrain.registry import MODELS

from scsa.analysis.config_table import documented

ABLATIONS = config_names('ablation/*.py')
COMPARISONS = config_names('comparison/*.py')


def plain_of(name: str) -> str:
    """The plain config that a config here inherits."""
    stem = name.split('/')[1].rsplit('_', 1)[0]
    return f'classification/{stem}.py'


def attentions(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [model.get_submodule(name) for name in model.attention_names()]


def test_the_named_attentions_are_compared_on_both_networks():
    networks = ('mobilenet-v2_1xb96_in1k', 'resnet50_1xb128_in1k')
    names = [f'{n}_{a}' for n in networks for a in ('se', 'cbam', 'eca', 'coord', 'ela', 'gc')]
    assert sorted(f'comparison/{name}.py' for name in names) == COMPARISONS
    assert len(ABLATIONS) == 16


@pytest.mark.parametrize('name', ABLATIONS + COMPARISONS)
def test_differs_from_the_plain_config_in_its_backbone_alone(name):
    text = (CONFIGS / name).read_text()
    assert len(text.splitlines()) <= 6 and text.startswith('# ')
    ours, plain = (Config.fromfile(CONFIGS / n).to_dict() for n in (name, plain_of(name)))
    assert ours.pop('custom_imports') == dict(imports=['scsa'], allow_failed_imports=False)
    ours.pop('attn_cfg', None)
    backbone, plain_backbone = ours['model'].pop('backbone'), plain['model'].pop('backbone')
    assert ours == plain
    assert backbone.pop('attn_cfg') != dict(type='SCSA')
    assert backbone.pop('type') == plain_backbone.pop('type') + 'SCSA'
    assert backbone == plain_backbone


@pytest.mark.parametrize('name', ABLATIONS + COMPARISONS)
def test_builds_and_has_the_parameters_of_the_table(name):
    if name in COMPARISONS:
        pytest.importorskip('timm', reason='timm is an extra: pip install timm')
    model = MODELS.build(Config.fromfile(CONFIGS / name).model)
    plain = MODELS.build(Config.fromfile(CONFIGS / plain_of(name)).model)
    total, plain_total = (sum(p.numel() for p in m.parameters()) for m in (model, plain))
    own = [p.numel() for module in attentions(model.backbone) for p in module.parameters()]
    assert total == plain_total + sum(own)
    assert total == documented(ROOT / 'docs/comparison.md')[name]


def test_the_table_lists_every_config():
    assert sorted(documented(ROOT / 'docs/comparison.md')) == ABLATIONS + COMPARISONS

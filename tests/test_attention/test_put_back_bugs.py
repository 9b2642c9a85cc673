"""The bugs of published and copied-around SCSA files, put back in turn: each must turn a test red.

The judge is the golden test of the published ResNet-18; the bugs are put into the source of the
reference, which then takes the place of the module.
"""

import inspect

import pytest
import torch
from numerics import Golden

from scsa.attention import SCSA, reference, scsa_reference

pytest.importorskip('mmpretrain', reason='the golden numbers are those of whole backbones')

BUGS = {
    'strips swapped': ('(x.mean(3), module.norm_h), (x.mean(2), module.norm_w)',
                       '(x.mean(3), module.norm_w), (x.mean(2), module.norm_h)'),
    'gates of the wrong axis': ('x * gates[0].view(batch, channels, height, 1)',
                                'x * gates[1].view(batch, channels, height, 1)'),
    'attention over tokens': ("attn = q @ k.transpose(-2, -1) * (channels // heads) ** -0.5\n"
                              "    attn = module.attn_drop(attn.softmax(dim=-1)) @ v",
                              "attn = q.transpose(-2, -1) @ k * (channels // heads) ** -0.5\n"
                              "    attn = v @ module.attn_drop(attn.softmax(dim=-1))"),
    'convolutions per strip': ('conv(group) for conv, group in zip(convs, groups)',
                               'conv(group if norm is module.norm_h else group.flip(2)) '
                               'for conv, group in zip(convs, groups)'),
    'scaled by tokens': ('(channels // heads) ** -0.5', 'q.shape[-1] ** -0.5'),
    'eight heads by default': ('module.window_size, module.head_num', 'module.window_size, 8'),
    'no norm in PCSA': ('y = module.norm(y)', 'y = y'),
    'softmax over the wrong side': ('attn.softmax(dim=-1)', 'attn.softmax(dim=-2)'),
    'kernels in another order': ('module.global_dwc_m, module.global_dwc_l',
                                 'module.global_dwc_l, module.global_dwc_m'),
}  # fmt: skip


@pytest.fixture(scope='module')
def golden():
    return Golden('resnet18')


def golden_distance(golden, forward, monkeypatch):
    from mmengine.registry import MODELS

    monkeypatch.setattr(SCSA, 'forward', forward)
    model = MODELS.build(dict(golden.backbone)).eval()
    model.load_state_dict(golden.weights)
    with torch.no_grad():
        return golden.distance(model(golden.image))


def test_the_reference_itself_is_green(golden, monkeypatch):
    assert golden_distance(golden, scsa_reference, monkeypatch) < 1e-5


@pytest.mark.parametrize('name', BUGS)
def test_a_bug_put_back_is_red(name, golden, monkeypatch):
    right, wrong = BUGS[name]
    source = inspect.getsource(reference)
    assert source.count(right) == 1, 'the reference was rewritten: put the bug back elsewhere'
    scope = {'__name__': 'scsa.attention.reference', '__package__': 'scsa.attention'}
    exec(compile(source.replace(right, wrong), name, 'exec'), scope)
    assert golden_distance(golden, scope['scsa_reference'], monkeypatch) > 1e-4


def test_the_published_check_of_dim_that_never_fails_is_not_ours():
    # `assert dim // 4` is true for 30, which leaves two channels without a group.
    with pytest.raises(ValueError, match='not divisible'):
        SCSA(30)

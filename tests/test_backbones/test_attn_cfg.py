"""Any attention in SCSA's place: what holds for SCSA in the backbones holds for all of them."""

import copy
import sys

import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.models import MobileNetV2, ResNet, SwinTransformer
from numerics import distance, randomise
from packaging.version import Version

from scsa import SCSA
from scsa.backbones import MobileNetV2SCSA, ResNetSCSA, SwinTransformerSCSA
from scsa.backbones.attention import build_attention
from scsa.backbones.checkpoint import CheckpointMismatch

TIMM = ('se', 'ese', 'eca', 'ecam', 'ceca', 'cbam', 'lcbam', 'coord', 'scoord', 'ela', 'strip')
TIMM += ('gc', 'gca', 'ge', 'sk', 'splat', 'lambda', 'nl')
OURS = ('SCSA', 'SMSA', 'PCSA', 'PCSABeforeSMSA', 'ParallelSCSA', 'UnsharedSCSA')
ATTENTIONS = {
    **{name: dict(type=name) for name in OURS},
    'context': dict(type='ContextBlock', ratio=0.25),
    'SELayer': dict(type='SELayer'),
    'nonlocal': dict(type='NonLocal2d', mode='dot_product'),
    **{name: dict(type='TimmAttention', name=name) for name in TIMM},
    'bat': dict(type='TimmAttention', name='bat', block_size=2),
    'halo': dict(type='TimmAttention', name='halo', block_size=2, halo_size=1),
}

SWIN = dict(
    arch=dict(embed_dims=32, depths=[2, 2], num_heads=[2, 4]),
    out_indices=(1,),
    drop_path_rate=0.0,
)
BACKBONES = {
    'resnet18': (ResNet, ResNetSCSA, dict(depth=18, stem_channels=32, base_channels=32)),
    'resnet50': (ResNet, ResNetSCSA, dict(depth=50, stem_channels=32, base_channels=32)),
    'mobilenet': (MobileNetV2, MobileNetV2SCSA, dict(widen_factor=0.5)),
    'swin': (SwinTransformer, SwinTransformerSCSA, SWIN),
}


def attn_cfg(name):
    if ATTENTIONS[name]['type'] == 'TimmAttention':
        pytest.importorskip('timm', reason='timm is an extra: pip install timm')
    return ATTENTIONS[name]


def count(module):
    return sum(p.numel() for p in module.parameters())


def attentions(model):
    return [model.get_submodule(name) for name in model.attention_names()]


def attention_keys(model):
    names = tuple(f'{name}.' for name in model.attention_names())
    counters = 'num_batches_tracked'  # torch never misses them
    return [k for k in model.state_dict() if k.startswith(names) and not k.endswith(counters)]


@pytest.mark.parametrize('backbone', ['resnet50', 'mobilenet', 'swin'])
@pytest.mark.parametrize('name', ATTENTIONS)
def test_any_attention_goes_forward_and_back_and_adds_its_own_parameters_alone(name, backbone):
    plain_class, our_class, options = BACKBONES[backbone]
    model = our_class(**options, attn_cfg=attn_cfg(name))
    blocks = attentions(model)
    assert len(blocks) == {'resnet50': 16, 'mobilenet': 17, 'swin': 4}[backbone]
    assert count(model) == count(plain_class(**options)) + sum(count(block) for block in blocks)

    model.init_weights()
    image = torch.randn(2, 3, 64, 64)
    features = model.train()(image)[-1]
    assert features.shape == plain_class(**options)(image)[-1].shape
    features.square().mean().backward()
    for key in attention_keys(model):
        if 'running' not in key:
            grad = model.get_parameter(key).grad
            assert grad is not None and grad.isfinite().all(), key


@pytest.mark.parametrize('backbone', BACKBONES)
@pytest.mark.parametrize('name', ['SMSA', 'context', 'SELayer', 'eca', 'coord', 'ge'])
def test_plain_weights_load_and_what_fits_neither_is_refused(name, backbone):
    plain_class, our_class, options = BACKBONES[backbone]
    plain = plain_class(**options)
    plain.eval()
    model = our_class(**options, attn_cfg=attn_cfg(name)).eval()
    found = model.load_state_dict(plain.state_dict(), strict=False)
    assert found.missing_keys == attention_keys(model) and found.unexpected_keys == []

    again = our_class(**options, attn_cfg=attn_cfg(name)).eval()
    again.load_state_dict(copy.deepcopy(model).state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(image)[-1], model(image)[-1])
        for block in attentions(model):
            block.forward = lambda x: x
        assert distance(model(image)[-1], plain(image)[-1]) < 1e-6

    state = model.state_dict()
    del state[attention_keys(model)[0]]
    with pytest.raises(CheckpointMismatch, match='1 differences, first'):
        again.load_state_dict(state, strict=False)
    with pytest.raises(CheckpointMismatch):
        our_class(**options).load_state_dict(model.state_dict(), strict=False)


@pytest.mark.parametrize('backbone', BACKBONES)
@pytest.mark.parametrize('cfg', [dict(), dict(window_size=3, gate_layer='softmax', head_num=2)])
def test_scsa_through_attn_cfg_is_scsa_through_scsa_cfg_bit_for_bit(backbone, cfg):
    _, our_class, options = BACKBONES[backbone]
    results = []
    for given in (dict(scsa_cfg=cfg), dict(attn_cfg=dict(type='SCSA', **cfg))):
        torch.manual_seed(0)
        model = our_class(**options, **given)
        model.init_weights()
        out = model.train()(torch.randn(2, 3, 64, 64))[-1]
        out.square().mean().backward()
        gradients = [p.grad for p in model.parameters()]
        results.append((list(model.state_dict()), out, *gradients, *model.state_dict().values()))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(*pair) for pair in zip(results[0][1:], results[1][1:]))


def test_without_either_it_is_scsa():
    for _, our_class, options in BACKBONES.values():
        assert all(type(block) is SCSA for block in attentions(our_class(**options)))


@pytest.mark.parametrize('backbone', BACKBONES)
@pytest.mark.parametrize('name', ['SMSA', 'UnsharedSCSA', 'context', 'se', 'ela'])
def test_checkpointing_gives_the_same_gradients(name, backbone):
    _, our_class, options = BACKBONES[backbone]
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = our_class(**options, with_cp=with_cp, attn_cfg=attn_cfg(name))
        model = randomise(model).double().train()
        image = torch.randn(2, 3, 64, 64, dtype=torch.float64, requires_grad=True)
        model(image)[-1].square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert distance(*gradients) < 1e-10


@pytest.mark.parametrize('backbone', BACKBONES)
@pytest.mark.parametrize('name', ['PCSA', 'SELayer', 'cbam'])
def test_frozen_stages_stay_frozen(name, backbone):
    _, our_class, options = BACKBONES[backbone]
    model = our_class(**options, frozen_stages=1, attn_cfg=attn_cfg(name)).train()
    first, last = attentions(model)[0], attentions(model)[-1]
    assert not first.training and not any(p.requires_grad for p in first.parameters())
    if backbone != 'swin':  # this one has no more stages than are frozen
        assert last.training and all(p.requires_grad for p in last.parameters())


def test_positions_of_swin_take_any_attention():
    for position in ('attn', 'ffn', 'block', 'stage'):
        model = SwinTransformerSCSA(**SWIN, position=position, attn_cfg=dict(type='SELayer'))
        assert model(torch.randn(1, 3, 64, 64))[-1].isfinite().all()


@pytest.mark.parametrize('scope', [None, 'mmpretrain', 'mmdet', 'mmseg'])
def test_every_scope_finds_them(scope):
    if scope is None:
        assert build_attention(32, dict(type='ContextBlock', ratio=0.5)).in_channels == 32
        return
    if scope != 'mmpretrain':
        pytest.importorskip('mmcv.ops', reason='mmdet and mmseg need the compiled operators')
        pytest.importorskip(scope)
    with DefaultScope.overwrite_default_scope(scope):
        for cfg in (dict(type='SMSA'), dict(type='SELayer'), dict(type=torch.nn.Identity)):
            build_attention(32, cfg)


def test_a_wrong_attn_cfg_is_refused_in_one_line():
    with pytest.raises(ValueError, match="type='Nothing' is not in the registry"):
        ResNetSCSA(18, attn_cfg=dict(type='Nothing'))
    with pytest.raises(ValueError, match='type=None is not in the registry'):
        ResNetSCSA(18, attn_cfg=dict(name='se'))
    with pytest.raises(ValueError, match='both given; set scsa_cfg=None'):
        SwinTransformerSCSA('tiny', scsa_cfg=dict(), attn_cfg=dict(type='SMSA'))


def test_timms_bottleneck_attention_is_told_the_size_of_the_map():
    pytest.importorskip('timm', reason='timm is an extra: pip install timm')
    layer = build_attention(64, dict(type='TimmAttention', name='bottleneck', feat_size=(4, 6)))
    assert layer(torch.randn(2, 64, 4, 6)).shape == (2, 64, 4, 6)


def test_gather_excite_is_what_timm_means_to_build():
    timm = pytest.importorskip('timm', reason='timm is an extra: pip install timm')
    layer = build_attention(64, dict(type='TimmAttention', name='ge', rd_ratio=0.25)).layer
    assert layer.mlp.fc1.weight.shape == (16, 64, 1, 1)
    x = torch.randn(2, 64, 5, 5)
    expected = x * layer.mlp(x.mean((2, 3), keepdim=True)).sigmoid()
    assert isinstance(layer, timm.layers.GatherExcite) and distance(layer(x), expected) < 1e-6
    with pytest.raises(TypeError, match='wrong'):
        build_attention(64, dict(type='TimmAttention', name='ge', wrong=1))


def test_a_name_that_timm_does_not_know_is_refused_in_one_line():
    pytest.importorskip('timm', reason='timm is an extra: pip install timm')
    for name in ('none', '', None):
        with pytest.raises(ValueError, match=f'has no attention name={name!r}; use one of'):
            MobileNetV2SCSA(attn_cfg=dict(type='TimmAttention', name=name))


def test_without_timm_the_error_is_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ImportError, match=r'^TimmAttention needs timm .+: pip install timm$'):
        ResNetSCSA(18, attn_cfg=dict(type='TimmAttention', name='se'))


@pytest.mark.parametrize('backend', ['eager', pytest.param('inductor', marks=pytest.mark.slow)])
@pytest.mark.parametrize('backbone', ['resnet50', 'mobilenet', 'swin'])
@pytest.mark.parametrize('name', ['SCSA', 'SMSA', 'PCSA', 'SELayer', 'se', 'eca', 'coord', 'ela'])
def test_a_block_is_one_graph(name, backbone, backend):
    torch._dynamo.reset()
    model = BACKBONES[backbone][1](**BACKBONES[backbone][2], attn_cfg=attn_cfg(name)).eval()
    if backbone == 'swin':  # around it mmengine's wrapper of the FFN is no graph, in plain Swin too
        block, x = model.stages[0].blocks[0], torch.randn(2, 14 * 14, 32)
        run = lambda x: block.attend(x, (14, 14))  # noqa: E731
    else:
        run = model.layer1[0]
        x = torch.randn(2, run.in_channels if backbone == 'resnet50' else 16, 14, 14)
    with torch.no_grad():
        assert distance(torch.compile(run, fullgraph=True, backend=backend)(x), run(x)) < 1e-5


def whole_graphs():
    """Backbone, attention and backend; but for two of them pytest --slow."""
    names = ('SCSA', 'SMSA', 'PCSA', 'SELayer', 'se', 'eca', 'coord', 'ela')
    for backbone in ('resnet18', 'mobilenet', 'swin'):
        for name in names:
            slow = () if name == 'SCSA' and backbone != 'mobilenet' else pytest.mark.slow
            yield pytest.param(backbone, name, 'aot_eager', marks=slow)
        for name in ('SCSA', 'se'):
            yield pytest.param(backbone, name, 'inductor', marks=pytest.mark.slow)


@pytest.mark.parametrize(('backbone', 'name', 'backend'), [*whole_graphs()])
def test_a_whole_backbone_is_one_graph_forward_and_back(backbone, name, backend):
    if backbone == 'swin' and Version(torch.__version__) < Version('2.4'):
        pytest.skip("this torch cannot compile mmengine's wrapper of the FFN, in plain Swin too")
    torch._dynamo.reset()
    _, our_class, options = BACKBONES[backbone]
    # Double precision: batch norm over the few values of the last maps makes much of a rounding.
    model = our_class(**options, attn_cfg=attn_cfg(name)).train().double()
    image, results = torch.randn(2, 3, 64, 64, dtype=torch.float64), []
    for run in (model, torch.compile(model, fullgraph=True, backend=backend)):
        model.zero_grad()
        out = run(image)[-1]
        out.square().mean().backward()
        results.append((out.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    for expected, found in zip(*results):
        assert distance(found, expected) < 1e-6

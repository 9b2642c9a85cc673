"""What mmpretrain's own unit tests ask of ResNet, MobileNetV2 and Swin, asked of ours.

Two things that they ask cannot hold: that every norm of the backbone is a batch norm (SCSA has
group norms), and that a block has no other layers than the plain one. They are asked of the rest.
"""

import copy
import math

import pytest
import torch
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import DropPath
from mmpretrain.models import SwinTransformer
from mmpretrain.models.backbones.mobilenet_v2 import InvertedResidual
from mmpretrain.models.backbones.resnet import ResLayer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from scsa import SCSA
from scsa.backbones import MobileNetV2SCSA, ResNetSCSA, SwinTransformerSCSA
from scsa.backbones.resnet import BasicBlockSCSA, BottleneckSCSA

NARROW = dict(stem_channels=8, base_channels=8)  # what takes time is the width
GROUPS = dict(type='GN', num_groups=4)
TINY = dict(embed_dims=8, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8])


def image(height=64, width=None, batch=1):
    return torch.randn(batch, 3, height, width or height)


def shapes(outs):
    return [tuple(out.shape) for out in outs]


def norms(model):
    """The norms of a model but those of the attentions."""
    names = tuple(f'{name}.' for name in model.attention_names())
    kinds = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    return [module for name, module in found if not name.startswith(names)]


def is_frozen(module):
    return not module.training and not any(p.requires_grad for p in module.parameters())


def gradient(model, out):
    out.square().mean().backward()
    return [p.grad for p in model.parameters()]


# ResNet


def test_a_basic_block():
    for wrong in (dict(expansion=2), dict(expansion=3)):
        with pytest.raises(AssertionError):
            BasicBlockSCSA(16, 16, **wrong)
    block = BasicBlockSCSA(16, 16)
    assert (block.in_channels, block.mid_channels, block.out_channels) == (16, 16, 16)
    for conv in (block.conv1, block.conv2):
        assert (conv.in_channels, conv.out_channels, conv.kernel_size) == (16, 16, (3, 3))
    assert block(torch.randn(1, 16, 14, 14)).shape == (1, 16, 14, 14)

    down = nn.Sequential(nn.Conv2d(16, 32, 1, stride=2, bias=False), nn.BatchNorm2d(32))
    block = BasicBlockSCSA(16, 32, stride=2, downsample=down)
    assert block.conv1.stride == (2, 2) and block.conv2.stride == (1, 1)
    assert block(torch.randn(1, 16, 14, 14)).shape == (1, 32, 7, 7)
    block = BasicBlockSCSA(16, 16, dilation=2)
    assert block.conv1.dilation == (2, 2) and block.conv2.dilation == (1, 1)
    assert block(torch.randn(1, 16, 14, 14)).shape == (1, 16, 14, 14)


def test_a_bottleneck():
    with pytest.raises(AssertionError):
        BottleneckSCSA(16, 16, style='tensorflow')
    with pytest.raises(AssertionError):
        BottleneckSCSA(16, 66)  # not four times anything
    block = BottleneckSCSA(64, 64)
    assert [c.in_channels for c in (block.conv1, block.conv2, block.conv3)] == [64, 16, 16]
    assert [c.out_channels for c in (block.conv1, block.conv2, block.conv3)] == [16, 16, 64]
    assert block(torch.randn(1, 64, 14, 14)).shape == (1, 64, 14, 14)
    assert BottleneckSCSA(64, 64, expansion=2).mid_channels == 32


@pytest.mark.parametrize(('style', 'first', 'second'), [('pytorch', 1, 2), ('caffe', 2, 1)])
def test_where_a_bottleneck_has_its_stride(style, first, second):
    down = nn.Conv2d(64, 64, 1, stride=2)
    block = BottleneckSCSA(64, 64, stride=2, style=style, downsample=down)
    assert (block.conv1.stride, block.conv2.stride) == ((first,) * 2, (second,) * 2)
    assert block(torch.randn(1, 64, 14, 14)).shape == (1, 64, 7, 7)


@pytest.mark.parametrize('block', [BasicBlockSCSA, BottleneckSCSA])
def test_a_block_that_is_computed_twice(block):
    """``with_cp`` saves memory and changes no gradient."""
    plain = block(64, 64)
    thrifty = block(64, 64, with_cp=True)
    thrifty.load_state_dict(plain.state_dict())
    x = torch.randn(2, 64, 14, 14, requires_grad=True)
    for one, other in zip(gradient(plain, plain(x)), gradient(thrifty, thrifty(x))):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize('block', [BasicBlockSCSA, BottleneckSCSA])
def test_a_layer_of_blocks(block):
    same = ResLayer(block, 3, 64, 64)
    assert len(same) == 3 and all(one.downsample is None for one in same)
    assert same(torch.randn(1, 64, 14, 14)).shape == (1, 64, 14, 14)

    first, *rest = layer = ResLayer(block, 3, 32, 64, stride=2, drop_path_rate=[0.0, 0.1, 0.2])
    assert isinstance(first.downsample[0], nn.Conv2d) and first.downsample[0].stride == (2, 2)
    assert all(one.downsample is None and one.stride == 1 for one in rest)
    assert [getattr(one.drop_path, 'drop_prob', 0) for one in layer] == [0, 0.1, 0.2]
    assert layer(torch.randn(1, 32, 14, 14)).shape == (1, 64, 7, 7)

    pooled = ResLayer(block, 2, 32, 64, stride=2, avg_down=True)[0].downsample
    assert isinstance(pooled[0], nn.AvgPool2d) and pooled[0].stride == 2
    assert pooled[1].stride == (1, 1)
    with pytest.raises(AssertionError):
        ResLayer(block, 3, 64, 64, drop_path_rate=[0.0])


@pytest.mark.parametrize(
    'wrong',
    [
        dict(depth=20),
        dict(num_stages=0),
        dict(num_stages=5),
        dict(strides=(1,), dilations=(1, 1), num_stages=3),
        dict(out_indices=(4,)),
        dict(style='tensorflow'),
    ],
    ids=str,
)
def test_a_resnet_that_there_is_not(wrong):
    with pytest.raises((KeyError, AssertionError)):
        ResNetSCSA(**{'depth': 50, **NARROW, **wrong})


@pytest.mark.parametrize(('depth', 'expansion'), [(18, 1), (50, 4)])
def test_maps_of_a_resnet(depth, expansion):
    model = ResNetSCSA(depth, out_indices=(0, 1, 2, 3), **NARROW)
    model.init_weights()
    expected = [(1, 8 * 2**i * expansion, 16 // 2**i, 16 // 2**i) for i in range(4)]
    assert shapes(model.train()(image())) == expected
    assert model.feat_dim == expected[-1][1]
    assert shapes(ResNetSCSA(depth, **NARROW)(image())) == expected[-1:]
    assert shapes(ResNetSCSA(depth, out_indices=(0, 2), **NARROW)(image())) == expected[0::2]


def test_stages_strides_and_dilations():
    options = dict(num_stages=3, strides=(1, 2, 1), dilations=(1, 1, 2), out_indices=(0, 1, 2))
    model = ResNetSCSA(50, **options, **NARROW)
    assert not hasattr(model, 'layer4')
    assert shapes(model(image())) == [(1, 32, 16, 16), (1, 64, 8, 8), (1, 128, 8, 8)]
    assert all(block.conv2.dilation == (2, 2) for block in model.layer3)
    assert model.layer3[0].conv2.stride == (1, 1)


@pytest.mark.parametrize('depth', [18, 50])
def test_the_last_norm_of_a_block_starts_at_zero(depth):
    for zero in (True, False):
        model = ResNetSCSA(depth, zero_init_residual=zero, **NARROW)
        model.init_weights()
        for layer in model.res_layers:
            for block in getattr(model, layer):
                last = block.norm2 if depth == 18 else block.norm3
                assert (last.weight == (0 if zero else 1)).all() and (last.bias == 0).all()


@pytest.mark.parametrize('deep_stem', [False, True])
@pytest.mark.parametrize('frozen', [-1, 0, 1, 2])
def test_frozen_stages_of_a_resnet(frozen, deep_stem):
    model = ResNetSCSA(50, frozen_stages=frozen, deep_stem=deep_stem, **NARROW)
    model.init_weights()
    model.train()
    stem = [model.stem] if deep_stem else [model.norm1, model.conv1]
    if frozen >= 0:
        assert not stem[0].training
        assert not any(p.requires_grad for part in stem for p in part.parameters())
    for i in range(1, 5):
        layer = getattr(model, f'layer{i}')
        assert is_frozen(layer) == (i <= frozen)
        assert all(p.requires_grad for p in layer.parameters()) == (i > frozen)
    grads = gradient(model, model(image(batch=2))[-1])
    assert all((g is not None) == p.requires_grad for g, p in zip(grads, model.parameters()))


def test_norms_in_evaluation_and_of_another_kind():
    model = ResNetSCSA(50, norm_eval=True, **NARROW)
    model.train()
    assert all(isinstance(norm, _BatchNorm) and not norm.training for norm in norms(model))
    assert all(m.training for m in model.modules() if isinstance(m, SCSA))
    model.norm_eval = False
    model.train()
    assert all(norm.training for norm in norms(model))

    model = ResNetSCSA(50, norm_cfg=GROUPS, out_indices=(0, 3), **NARROW)
    model.init_weights()
    assert all(isinstance(norm, nn.GroupNorm) for norm in norms(model))
    assert shapes(model(image())) == [(1, 32, 16, 16), (1, 256, 2, 2)]
    frozen = ResNetSCSA(18, norm_cfg=dict(type='BN', requires_grad=False), **NARROW)
    assert not any(p.requires_grad for norm in norms(frozen) for p in norm.parameters())


def test_stems():
    """Those of ResNet-C and -D: three small convolutions, and pooling before the shortcut."""
    model = ResNetSCSA(50, deep_stem=True, avg_down=True, **NARROW)
    assert len(model.stem) == 3 and all(isinstance(part, ConvModule) for part in model.stem)
    assert [part.conv.stride for part in model.stem] == [(2, 2), (1, 1), (1, 1)]
    assert [part.conv.kernel_size for part in model.stem] == [(3, 3)] * 3
    for i in (2, 3, 4):
        assert isinstance(getattr(model, f'layer{i}')[0].downsample[0], nn.AvgPool2d)
    assert not isinstance(model.layer1[0].downsample[0], nn.AvgPool2d)
    assert shapes(model(image())) == [(1, 256, 2, 2)]
    plain = ResNetSCSA(50, deep_stem=True, **NARROW)
    assert isinstance(plain.layer2[0].downsample[0], nn.Conv2d)


def test_convolutions_of_another_kind():
    model = ResNetSCSA(18, conv_cfg=dict(type='Conv2dAdaptivePadding'), **NARROW)
    assert type(model.layer1[0].conv1).__name__ == 'Conv2dAdaptivePadding'
    assert shapes(model(image())) == [(1, 64, 2, 2)]


def test_a_resnet_starts_from_a_file(tmp_path):
    source = ResNetSCSA(18, **NARROW)
    torch.save({'state_dict': source.state_dict()}, tmp_path / 'a.pth')
    pretrained = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    model = ResNetSCSA(18, init_cfg=pretrained, **NARROW)
    model.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


# MobileNetV2


@pytest.mark.parametrize('out_indices', [(8,), (0, -1)])
def test_maps_that_a_mobilenet_has_not(out_indices):
    with pytest.raises(ValueError, match='out_indices'):
        MobileNetV2SCSA(out_indices=out_indices)


def test_stages_that_a_mobilenet_has_not():
    for frozen in (8, -2):
        with pytest.raises(ValueError, match='frozen_stages'):
            MobileNetV2SCSA(frozen_stages=frozen)


@pytest.mark.parametrize('widen_factor', [0.25, 0.5, 1.0, 1.25])
def test_maps_of_a_mobilenet(widen_factor):
    def width(channels):
        wide = max(8, int(channels * widen_factor + 4) // 8 * 8)
        return wide + 8 if wide < 0.9 * channels * widen_factor else wide

    channels = [width(c) for c in (16, 24, 32, 64, 96, 160, 320)]
    channels.append(int(1280 * max(1, widen_factor)))
    sides = [32, 16, 8, 4, 4, 2, 2, 2]
    model = MobileNetV2SCSA(widen_factor=widen_factor, out_indices=range(8))
    model.init_weights()
    expected = [(1, c, s, s) for c, s in zip(channels, sides)]
    assert shapes(model.train()(image())) == expected
    alone = MobileNetV2SCSA(widen_factor=widen_factor)
    assert shapes(alone(image())) == expected[-1:]


def test_blocks_of_a_mobilenet():
    model = MobileNetV2SCSA(widen_factor=0.25)
    blocks = [module for module in model.modules() if isinstance(module, InvertedResidual)]
    assert len(blocks) == 17
    strides = [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1]
    assert [block.stride for block in blocks] == strides
    for i, block in enumerate(blocks):
        layers = [part for part in block.conv if isinstance(part, ConvModule)]
        assert len(layers) == (2 if i == 0 else 3)  # the first one does not expand
        assert layers[-2].conv.groups == layers[-2].conv.in_channels
        assert not layers[-1].with_activation
        same = layers[0].conv.in_channels == layers[-1].conv.out_channels
        assert block.use_res_connect == (block.stride == 1 and same)


@pytest.mark.parametrize('frozen', [0, 1, 4, 7])
def test_frozen_stages_of_a_mobilenet(frozen):
    model = MobileNetV2SCSA(widen_factor=0.25, frozen_stages=frozen)
    model.init_weights()
    model.train()
    assert not any(p.requires_grad for p in model.conv1.parameters())
    for i in range(1, 8):
        layer = getattr(model, f'layer{i}')
        assert is_frozen(layer) == (i <= frozen)
        assert all(p.requires_grad for p in layer.parameters()) == (i > frozen)


def test_a_mobilenet_with_other_layers():
    model = MobileNetV2SCSA(widen_factor=0.25, norm_eval=True).train()
    assert all(isinstance(norm, _BatchNorm) and not norm.training for norm in norms(model))
    model = MobileNetV2SCSA(
        widen_factor=0.25, norm_cfg=GROUPS, act_cfg=dict(type='ReLU'), out_indices=(6, 7)
    )
    model.init_weights()
    assert all(isinstance(norm, nn.GroupNorm) for norm in norms(model))
    assert not any(isinstance(module, nn.ReLU6) for module in model.modules())
    assert shapes(model(image())) == [(1, 80, 2, 2), (1, 1280, 2, 2)]


def test_a_mobilenet_that_is_computed_twice():
    plain = MobileNetV2SCSA(widen_factor=0.25).train()
    thrifty = MobileNetV2SCSA(widen_factor=0.25, with_cp=True).train()
    thrifty.load_state_dict(plain.state_dict())
    blocks = [module for module in thrifty.modules() if isinstance(module, InvertedResidual)]
    assert all(block.with_cp for block in blocks)
    x = image(batch=2).requires_grad_()
    pairs = zip(gradient(plain, plain(x)[0]), gradient(thrifty, thrifty(x)[0]))
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


# Swin


def swin(**options):
    return SwinTransformerSCSA(**{'arch': TINY, 'img_size': 224, **options})


def test_architectures_of_a_swin():
    with pytest.raises(AssertionError, match='not in default archs'):
        SwinTransformerSCSA(arch='unknown')
    with pytest.raises(AssertionError, match='Custom arch needs'):
        SwinTransformerSCSA(arch=dict(embed_dims=96, num_heads=[3, 6, 12, 16]))
    depths, heads = [2, 2, 4, 2], [1, 2, 4, 8]
    model = swin(arch=dict(embed_dims=8, depths=depths, num_heads=heads))
    for depth, head, stage in zip(depths, heads, model.stages):
        assert len(stage.blocks) == depth
        assert all(block.attn.w_msa.num_heads == head for block in stage.blocks)
    assert SwinTransformerSCSA('T').embed_dims == SwinTransformer('tiny').embed_dims


def test_windows_of_a_swin():
    windows = [7, 7, 14, 7]
    model = swin(stage_cfgs=[dict(block_cfgs=dict(window_size=size)) for size in windows])
    for size, stage in zip(windows, model.stages):
        for i, block in enumerate(stage.blocks):
            assert block.attn.w_msa.window_size == (size, size)
            assert block.attn.shift_size == (size // 2 if i % 2 else 0)
    assert shapes(model(image(224))) == [(1, 64, 7, 7)]


def test_maps_of_a_swin():
    expected = [(1, 8 * 2**i, 56 // 2**i, 56 // 2**i) for i in range(4)]
    assert shapes(swin()(image(224))) == expected[-1:]
    assert shapes(swin(out_indices=(0, 1, 2, 3))(image(224))) == expected
    assert shapes(swin(out_indices=(1, 3))(image(224))) == expected[1::2]
    down = swin(out_indices=(0, 1, 2, 3), out_after_downsample=True)
    assert shapes(down(image(224))) == [*expected[1:], expected[-1]]
    assert down.num_features == [16, 32, 64, 64]


def test_maps_smaller_than_a_window():
    with pytest.raises(AssertionError, match='pad_small_map=True'):
        swin()(image(112))
    assert shapes(swin(pad_small_map=True)(image(112))) == [(1, 64, 4, 4)]
    assert all(b.attn.pad_small_map for s in swin(pad_small_map=True).stages for b in s.blocks)
    assert shapes(swin(pad_small_map=True)(image(75, 109))) == [(1, 64, 3, 4)]  # rounded up


@pytest.mark.parametrize('position', ['attn', 'ffn', 'block', 'stage'])
def test_the_drop_rates_of_a_swin_are_where_its_users_look(position):
    """They rise from block to block, on both branches, wherever SCSA is."""
    model = swin(drop_path_rate=0.2, position=position)
    rates = torch.linspace(0, 0.2, 8).tolist()
    for block in (block for stage in model.stages for block in stage.blocks):
        expected = rates.pop(0)
        for drop in (block.attn.drop, block.ffn.dropout_layer):
            assert math.isclose(drop.drop_prob, expected, abs_tol=1e-6)


@pytest.mark.parametrize(
    ('position', 'name'), [('attn', 'attn.drop'), ('ffn', 'ffn.dropout_layer')]
)
def test_a_drop_rate_that_is_changed_there_is_changed(position, name):
    block = swin(position=position).stages[0].blocks[0]
    block = copy.deepcopy(block)
    drop = block.get_submodule(name)
    drop.drop_prob = 1 - 1e-9  # as schedules of stochastic depth do
    assert type(block.drop_path) is DropPath and block.drop_path.drop_prob == drop.drop_prob
    x = torch.randn(1, 49, 8)
    assert torch.equal(drop(x), x), 'it comes later'
    block.train()
    with torch.no_grad():
        out = block(x, (7, 7))
        if position == 'attn':  # the branch of attention is gone, and that of the FFN is left
            torch.testing.assert_close(out, block.ffn(block.norm2(x), identity=x))
        else:
            torch.testing.assert_close(out, x + block.attn(block.norm1(x), (7, 7)))


def test_downsampling_of_a_swin():
    model = swin(stage_cfgs=dict(downsample_cfg=dict(kernel_size=3, stride=2, padding=1)))
    merging = [stage.downsample for stage in model.stages]
    assert merging[-1] is None and all(m.sampler.kernel_size == (3, 3) for m in merging[:-1])
    assert [m.out_channels for m in merging[:-1]] == [16, 32, 64]
    assert shapes(model(image(224))) == [(1, 64, 7, 7)]


def test_a_swin_that_is_computed_twice():
    plain, thrifty = swin(drop_path_rate=0.0), swin(drop_path_rate=0.0, with_cp=True)
    thrifty.load_state_dict(plain.state_dict())
    assert all(block.with_cp for stage in thrifty.stages for block in stage.blocks)
    x = image(224)
    pairs = zip(gradient(plain, plain(x)[0]), gradient(thrifty, thrifty(x)[0]))
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('frozen', [0, 2, 3])
def test_frozen_stages_of_a_swin(frozen):
    model = swin(frozen_stages=frozen, out_indices=(0, 1, 2, 3)).train()
    assert is_frozen(model.patch_embed)
    for i, stage in enumerate(model.stages):
        assert is_frozen(stage) == (i <= frozen)
        norm = getattr(model, f'norm{i}')
        assert all(p.requires_grad for p in norm.parameters()) == (i > frozen)


def test_norms_of_a_swin():
    batch = dict(type='BN1d')
    block = dict(block_cfgs=dict(norm_cfg=batch), downsample_cfg=dict(norm_cfg=batch))
    model = swin(norm_cfg=batch, stage_cfgs=block, patch_cfg=dict(norm_cfg=batch), norm_eval=True)
    model.train()
    assert all(isinstance(norm, _BatchNorm) and not norm.training for norm in norms(model))
    assert isinstance(swin(norm_cfg=None).norm3, nn.Identity)


def test_a_swin_with_absolute_positions(tmp_path):
    """They are drawn on a start, and fitted to another size of image on loading."""
    model = swin(use_abs_pos_embed=True)
    assert (model.absolute_pos_embed == 0).all()
    model.init_weights()
    assert 0.01 < model.absolute_pos_embed.std() < 0.03
    assert model.absolute_pos_embed.shape == (1, 56 * 56, 8)

    torch.save({'state_dict': model.state_dict()}, tmp_path / 'a.pth')
    pretrained = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    larger = swin(use_abs_pos_embed=True, img_size=384, window_size=12, init_cfg=pretrained)
    larger.init_weights()
    assert larger.absolute_pos_embed.shape == (1, 96 * 96, 8)
    assert larger.stages[0].blocks[0].attn.w_msa.relative_position_bias_table.shape == (23**2, 1)
    # The same picture in finer grain: means over quarters are nearly the same.
    coarse, fine = (
        nn.functional.adaptive_avg_pool2d(m.absolute_pos_embed[0].T.unflatten(1, (side, side)), 4)
        for m, side in ((model, 56), (larger, 96))
    )
    torch.testing.assert_close(fine, coarse, rtol=0, atol=5e-3)
    for key, value in model.state_dict().items():
        if 'scsa' in key or 'qkv' in key:
            assert torch.equal(larger.state_dict()[key], value), key
    assert shapes(larger(image(384))) == [(1, 64, 12, 12)]
    assert shapes(model(image(280))) == [(1, 64, 9, 9)]  # and on another size of input


def test_an_old_swin_of_the_plain_kind_is_loaded():
    """Before version 2 there was one norm, and before version 3 the masks were saved."""
    plain = SwinTransformer(arch=TINY)
    state = plain.state_dict()
    for part in ('weight', 'bias'):
        state[f'norm.{part}'] = torch.rand_like(state.pop(f'norm3.{part}'))
    state['stages.0.blocks.1.attn.attn_mask'] = torch.zeros(64, 49, 49)
    model = swin()
    found = model.load_state_dict(copy.deepcopy(state), strict=False)
    assert not found.unexpected_keys and all('.scsa.' in key for key in found.missing_keys)
    assert torch.equal(model.norm3.weight, state['norm.weight'])


def test_depths_for_rates_by_layer():
    model = swin(arch=dict(TINY, depths=[2, 2, 4, 2]), out_indices=(0, 1, 2, 3))
    plain = SwinTransformer(arch=dict(TINY, depths=[2, 2, 4, 2]), out_indices=(0, 1, 2, 3))
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (11, 12)
    for name, _ in plain.named_parameters():
        assert model.get_layer_depth(name) == plain.get_layer_depth(name), name
    resnet = ResNetSCSA(50, **NARROW)
    assert resnet.get_layer_depth('head.fc.weight', 'backbone.') == (7, 8)
    layers = [('conv1', 0), ('layer1.2', 1), ('layer2.1', 2), ('layer2.3', 3), ('layer4.0', 6)]
    for name, depth in layers:
        found = resnet.get_layer_depth(f'backbone.{name}.weight', 'backbone.')
        assert found == (depth, 8), name

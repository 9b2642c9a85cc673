"""What mmpretrain and its users expect of a backbone."""

import math

import pytest
import torch
from mmengine.registry import MODELS
from mmpretrain.models import ResNet, SwinTransformer
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from numerics import distance, randomise

from scsa import SCSA
from scsa.backbones import MobileNetV2SCSA, ResNetSCSA, SwinTransformerSCSA

SMALL = {
    'resnet18': lambda **k: ResNetSCSA(18, stem_channels=16, base_channels=16, **k),
    'resnet50': lambda **k: ResNetSCSA(50, stem_channels=16, base_channels=16, **k),
    'mobilenet': lambda **k: MobileNetV2SCSA(widen_factor=0.25, **k),
    'swin': lambda **k: SwinTransformerSCSA(
        arch=dict(embed_dims=16, depths=[2, 2], num_heads=[2, 4]),
        out_indices=(1,),
        pad_small_map=True,
        drop_path_rate=0.0,
        **k,
    ),
}


@pytest.fixture(params=SMALL)
def build(request):
    return SMALL[request.param]


def attentions(model):
    return [module for module in model.modules() if isinstance(module, SCSA)]


def test_every_scope_finds_them_without_a_prefix():
    for name in ('ResNetSCSA', 'MobileNetV2SCSA', 'SwinTransformerSCSA', 'SCSA'):
        assert MODELS.get(name) is not None and MMPRETRAIN_MODELS.get(name) is MODELS.get(name)


def test_one_scsa_a_block():
    assert len(attentions(ResNetSCSA(50))) == 16
    mobile = attentions(MobileNetV2SCSA())
    assert len(mobile) == 17 and mobile[0].dim == 32
    assert len(attentions(SwinTransformerSCSA('tiny'))) == 12
    assert len(attentions(SwinTransformerSCSA('tiny', position='stage'))) == 4


@pytest.mark.parametrize('depth', [18, 34, 50, 101, 152])
def test_all_depths_build(depth):
    assert len(attentions(ResNetSCSA(depth))) == sum(ResNetSCSA.arch_settings[depth][1])


@pytest.mark.parametrize('arch', ['tiny', 'small', 'base', 'large'])
def test_all_swins_build(arch):
    model = SwinTransformerSCSA(arch)
    assert {m.dim for m in attentions(model)} == {model.embed_dims * 2**i for i in range(4)}


@pytest.mark.parametrize(
    'options',
    [
        dict(deep_stem=True, avg_down=True),
        dict(dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1)),
        dict(style='caffe'),
        dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(0, 2)),
        dict(out_indices=(0, 1, 2, 3)),
        dict(drop_path_rate=0.2),
        dict(norm_cfg=dict(type='GN', num_groups=4)),
    ],
)
@pytest.mark.parametrize('depth', [18, 50])
def test_resnet_takes_all_that_its_parent_takes(depth, options):
    options = dict(stem_channels=16, base_channels=16, **options)
    image = torch.randn(2, 3, 65, 97)
    plain, ours = ResNet(depth, **options)(image), ResNetSCSA(depth, **options)(image)
    assert [out.shape for out in ours] == [out.shape for out in plain]


@pytest.mark.parametrize('size', [(32, 32), (33, 47), (56, 120), (224, 64)])
def test_any_input_size(build, size):
    out = build().eval()(torch.randn(1, 3, *size))
    assert out[-1].isfinite().all()


def test_scsa_cfg_reaches_every_module(build):
    model = build(scsa_cfg=dict(window_size=3, gate_layer='softmax', attn_drop_ratio=0.2))
    for module in attentions(model):
        assert module.window_size == 3 and module.gate_layer == 'softmax'
        assert module.attn_drop.p == 0.2


def test_wrong_channels_for_the_heads_are_refused_while_building():
    with pytest.raises(ValueError, match='dim=64 is not divisible by head_num=5'):
        ResNetSCSA(18, scsa_cfg=dict(head_num=5))
    with pytest.raises(TypeError, match='fuse_bn'):
        ResNetSCSA(18, scsa_cfg=dict(fuse_bn=True))


def test_train_and_eval_return_the_backbone(build):
    model = build()
    assert model.eval() is model and not model.training
    assert model.train() is model and model.training


@pytest.mark.parametrize('name', SMALL)
def test_frozen_stages_stay_frozen(name):
    frozen = 1
    model = SMALL[name](frozen_stages=frozen)
    model.train()
    prefixes = {
        'resnet18': ('conv1', 'bn1', 'layer1'),
        'resnet50': ('conv1', 'bn1', 'layer1'),
        'mobilenet': ('conv1', 'layer1'),
        'swin': ('patch_embed', 'stages.0', 'stages.1', 'norm1'),
    }[name]
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad != key.startswith(prefixes), key
    first = attentions(model)[0]
    assert not first.training and not any(p.requires_grad for p in first.parameters())


def test_norm_eval_leaves_the_norms_of_scsa_alone():
    model = ResNetSCSA(18, norm_eval=True).train()
    assert not any(m.training for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert all(module.training for module in attentions(model))


def test_checkpointing_gives_the_same_gradients(build):
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = randomise(build(with_cp=with_cp)).double().train()
        image = torch.randn(2, 3, 64, 64, dtype=torch.float64, requires_grad=True)
        model(image)[-1].square().mean().backward()
        assert all(p.grad is not None for module in attentions(model) for p in module.parameters())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert distance(*gradients) < 1e-10


@pytest.mark.parametrize('name', ['resnet50', 'mobilenet'])
def test_init_weights_draws_the_published_moments(name):
    # mmpretrain's Kaiming-normal on every Conv2d, fan-out: √(2 / C) for the scales q, k and v.
    torch.manual_seed(0)
    model = ResNetSCSA(50) if name == 'resnet50' else MobileNetV2SCSA()
    model.init_weights()
    for letter in 'qkv':
        scaled = torch.cat(
            [getattr(m, letter).weight.flatten() * math.sqrt(m.dim / 2) for m in attentions(model)]
        )
        assert abs(scaled.std() - 1) < 0.05 and abs(scaled.mean()) < 0.05
        assert scaled.abs().max() > 2.5, 'normal, not uniform'
    for module in attentions(model):
        assert (module.norm_h.weight == 1).all() and (module.norm_h.bias == 0).all()
        bound = module.global_dwc_l.weight.size(2) ** -0.5  # PyTorch's default: fan-in is 9
        assert module.global_dwc_l.weight.abs().max() <= bound
    if name == 'resnet50':
        assert (model.layer1[0].norm3.weight == 0).all(), 'zero_init_residual'


def test_layer_wise_decay_knows_the_parameters_of_scsa():
    model = SwinTransformerSCSA('tiny')
    depth = model.get_layer_depth('backbone.stages.1.blocks.0.scsa.q.weight', 'backbone.')
    assert depth == model.get_layer_depth('backbone.stages.1.blocks.0.norm1.weight', 'backbone.')
    model = ResNetSCSA(50)
    depth = model.get_layer_depth('backbone.layer2.3.attn.q.weight', 'backbone.')
    assert depth == model.get_layer_depth('backbone.layer2.3.conv2.weight', 'backbone.')
    assert 0 < depth[0] < depth[1] - 1


@pytest.mark.parametrize('position', ['attn', 'ffn', 'block', 'stage'])
def test_swin_positions(position):
    torch.manual_seed(0)
    options = dict(arch='tiny', drop_path_rate=0.0)
    model = SwinTransformerSCSA(position=position, **options).eval()
    plain = SwinTransformer(**options)
    plain.eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    seen = []
    for module in attentions(model):
        module.register_forward_hook(lambda module, args, out: seen.append(args[0].shape))
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert distance(model(image)[0], plain(image)[0]) > 1e-3
        assert seen[0] == (1, 96, 56, 56) and seen[-1] == (1, 768, 7, 7)
        for module in attentions(model):
            module.forward = lambda x: x
        assert distance(model(image)[0], plain(image)[0]) < 1e-6


def test_swin_refuses_an_unknown_position():
    with pytest.raises(ValueError, match=r"position='mlp' is unknown; use one of \('attn', 'ffn'"):
        SwinTransformerSCSA('tiny', position='mlp')


def test_swin_lays_tokens_out_as_the_map_they_came_from():
    # A window-padded, non-square map: each token's row and column must arrive in SCSA's strips.
    model = SMALL['swin']()
    block = model.stages[0].blocks[1]
    height, width = 9, 13
    tokens = torch.arange(2 * height * width * 16.0).view(2, height * width, 16)
    maps = []
    block.scsa.register_forward_hook(lambda module, args, out: maps.append(args[0]))
    block.scsa.forward = lambda x: x
    assert torch.equal(block.attend(tokens, (height, width)), tokens)
    for row, column in ((0, 0), (3, 12), (8, 1)):
        assert torch.equal(maps[0][:, :, row, column], tokens[:, row * width + column])
    model(torch.randn(1, 3, 4 * height, 4 * width))
    assert maps[-1].shape == (1, 16, height, width)


def test_swin_drops_the_whole_branch():
    model = SwinTransformerSCSA('tiny', drop_path_rate=0.5)
    for stage in model.stages:
        for block in stage.blocks:
            assert isinstance(block.attn.drop, torch.nn.Identity)
    assert model.stages[3].blocks[1].drop_path.drop_prob == 0.5

"""`scsa.insert` on models of our own, of torchvision and of timm."""

import copy
import subprocess
import sys

import pytest
import torch
from numerics import distance
from torch import nn

import scsa
from scsa.analysis.formula import weight
from scsa.insertion import Inserted

# Attentions in each: one a block with a place; EfficientNetV2's first blocks are one convolution.
TORCHVISION = dict(
    resnet18=8, resnet50=16, mobilenet_v2=17, mobilenet_v3_small=11, efficientnet_b0=16,
    efficientnet_v2_s=38, convnext_tiny=18,
)  # fmt: skip
TIMM = dict(
    resnet18=8, resnet50=16, mobilenetv2_100=17, mobilenetv3_small_100=11, efficientnet_b0=16,
    tf_efficientnetv2_s=38, convnext_atto=12,
)  # fmt: skip


class Net(nn.Module):
    """Two convolutions, each with its norm, and one ReLU for both."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16)
        self.relu, self.unused = nn.ReLU(inplace=True), nn.Flatten()
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        return self.head(self.relu(self.bn2(self.conv2(x))).mean((2, 3)))


def build(library, name):
    models = pytest.importorskip(library, reason=f'needs {library}')
    if library == 'timm':
        return models.create_model(name)
    return models.models.get_model(name)


def attentions(model):
    return [m for m in model.modules() if isinstance(m, scsa.SCSA)]


@pytest.mark.parametrize(
    ('library', 'name', 'count'),
    [
        *(('torchvision', *item) for item in TORCHVISION.items()),
        *(('timm', *item) for item in TIMM.items()),
    ],
)
def test_every_block_gets_one_and_the_plain_model_comes_back(library, name, count):
    model = build(library, name).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts residual branches at zero
    plain = {key: value.clone() for key, value in model.state_dict().items()}
    names = [name for name, _ in model.named_modules()]
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = model(x)
        assert scsa.insert(model, window_size=3) is model
        assert len(attentions(model)) == count
        assert {m.window_size for m in attentions(model)} == {3}
        assert not any(module.training for module in model.modules())
        changed = model(x)
        assert changed.shape == before.shape and not torch.equal(changed, before)
        assert all(m.layer_calls for m in count_calls(model, x)), 'every attention is used'
        renamed = scsa.published_keys(model)
        mine = model.state_dict()
        assert all(torch.equal(mine[k], plain[n]) for k, n in renamed.items() if n in plain)
        assert set(plain) <= set(renamed.values())
        assert scsa.remove(model) is model
        assert torch.equal(model(x), before)
    assert [name for name, _ in model.named_modules()] == names
    assert list(model.state_dict()) == list(plain)


def count_calls(model, x):
    """Runs the model; `layer_calls` of each attention says how often it ran."""
    handles = []
    for module in attentions(model):
        module.layer_calls = 0

        def called(module, *_):
            module.layer_calls += 1

        handles.append(module.register_forward_hook(called))
    model(x)
    for handle in handles:
        handle.remove()
    return attentions(model)


@pytest.mark.parametrize('library', ['torchvision', 'timm'])
def test_resnet50_is_the_published_one_in_numbers_and_keys(library):
    backbones = pytest.importorskip('scsa.backbones', reason='needs mmpretrain')
    model = scsa.insert(build(library, 'resnet50'))
    published = backbones.ResNetSCSA(50)
    weights = {k: weight(k, tuple(v.shape)) for k, v in published.state_dict().items()}
    published.load_state_dict(weights)

    names = scsa.published_keys(model)
    head = {k: v for k, v in model.state_dict().items() if k.startswith('fc.')}
    assert set(names.values()) == {*weights, *head}
    model.load_state_dict({key: {**weights, **head}[name] for key, name in names.items()})
    back = {names[key]: value for key, value in model.state_dict().items()}
    assert all(torch.equal(back[key], value) for key, value in weights.items())

    x = torch.randn(2, 3, 96, 64)
    found = []
    model.layer4.register_forward_hook(lambda module, inputs, out: found.append(out))
    with torch.no_grad():
        model.eval()(x)
        (expected,) = published.eval()(x)
    assert expected.std() > 0
    assert distance(found[0], expected) <= 1e-6


def test_the_published_place_of_mobilenet_v2_too():
    backbones = pytest.importorskip('scsa.backbones', reason='needs mmpretrain')
    ours = backbones.MobileNetV2SCSA(out_indices=(7,)).eval()
    model = scsa.insert(build('torchvision', 'mobilenet_v2')).eval()
    for module in (*ours.modules(), *model.modules()):  # so that the signal neither dies nor bursts
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    # Both register a block's layers in the same order, only the attention may come later.
    plain, attn = split(ours), split(model)
    assert [v.shape for v in plain[0]] == [v.shape for v in attn[0]]
    assert [v.shape for v in plain[1]] == [v.shape for v in attn[1]]
    with torch.no_grad():
        for mine, theirs in zip(plain[0] + plain[1], attn[0] + attn[1]):
            theirs.copy_(mine)
        x = torch.randn(2, 3, 64, 64)
        (expected,) = ours.train()(x)
        found = model.train().features(x)
    assert distance(found, expected) <= 1e-6


def split(model):
    """The parameters of a backbone without its classifier: plain ones, attention ones."""
    attention = {id(p) for m in attentions(model) for p in m.parameters()}
    own = [p for name, p in model.named_parameters() if not name.startswith('classifier')]
    return [p for p in own if id(p) not in attention], [p for p in own if id(p) in attention]


def test_layers_are_chosen_by_name_pattern_and_class():
    assert chosen(after='bn1') == ['bn1']
    assert chosen(after='conv?') == ['conv1', 'conv2']
    assert chosen(after=['bn1', 'conv2']) == ['bn1', 'conv2']
    assert chosen(after=nn.BatchNorm2d) == ['bn1', 'bn2']
    assert chosen(after='bn1', before=['bn2']) == ['bn1', 'bn2']


def chosen(**where):
    model = scsa.insert(Net(), **where)
    model(torch.randn(2, 1, 12, 12)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    return [name for name, module in model.named_modules() if isinstance(module, Inserted)]


def test_before_takes_the_channels_that_come_in_after_those_that_go_out():
    assert scsa.insert(Net(), after='conv2').conv2.attn.dim == 16
    model = scsa.insert(Net(), before='conv2')
    assert model.conv2.attn.dim == 8
    x = torch.randn(2, 8, 9, 9)
    assert torch.equal(model.conv2(x), model.conv2.layer(model.conv2.attn(x)))


def test_any_attention_and_two_at_different_places():
    model = scsa.insert(Net(), after='bn1', attn=scsa.SMSA, gate_layer='softmax')
    scsa.insert(model, after='bn2', attn=lambda channels: scsa.PCSA(channels, head_num=2))
    assert isinstance(model.bn1.attn, scsa.SMSA) and model.bn1.attn.gate_layer == 'softmax'
    assert isinstance(model.bn2.attn, scsa.PCSA) and model.bn2.attn.head_num == 2
    assert not isinstance(scsa.remove(model).bn1, Inserted)


def test_channels_come_from_a_dry_run_that_leaves_the_model_as_it_was():
    model = nn.Sequential(Net().conv1, nn.Sequential(nn.BatchNorm2d(8), nn.Dropout()), nn.ReLU())
    model[1][1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    scsa.insert(model, after=['1', '2'])
    assert model[1].attn.dim == model[2].attn.dim == 8
    assert model[1].training and not model[1].layer[1].training
    scsa.remove(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model[0]._forward_hooks and not model[1]._forward_hooks


def test_device_type_and_mode_are_those_of_the_layer():
    model = scsa.insert(Net().double().eval(), after='bn1')
    assert model.bn1.attn.q.weight.dtype == torch.float64
    assert not model.bn1.attn.training
    assert scsa.insert(Net().to('meta'), after='bn1').bn1.attn.q.weight.is_meta


@pytest.mark.parametrize(
    ('where', 'message'),
    [
        ({}, r'Net has no block whose place .* known .*ConvNeXt.* after='),
        (dict(after='layer1'), r"after='layer1' is no layer of Net, whose layers .*named_modules"),
        (dict(after=['bn1', 'conv1'], before='bn1'), 'bn1 takes one attention .* scsa.remove'),
        (dict(before='conv1'), r'before conv1 \(1 channels\): dim=1 is not divisible'),
        (dict(after='relu'), r'after relu .* saw \(1, 16, .*\) and \(1, 8, .*another layer'),
        (dict(after='head'), r'after head .* saw \(1, 10\)'),
        (dict(after='unused'), 'after unused the dry run saw no call'),
        (dict(after='relu', example=torch.zeros(1, 3, 9, 9)), r'\(1, 3, 9, 9\) failed.*example='),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_changed(where, message):
    model = Net()
    with pytest.raises(ValueError, match=message):
        scsa.insert(model, **where)
    assert not any(isinstance(module, Inserted) for module in model.modules())
    assert all(module.training for module in model.modules())


def test_a_layer_that_has_one_takes_no_second_nor_do_the_layers_of_an_attention():
    model = scsa.insert(Net(), after='bn1')
    with pytest.raises(ValueError, match='bn1 takes one attention and would get a second'):
        scsa.insert(model, after='bn1')
    with pytest.raises(ValueError, match='is no layer'):
        scsa.insert(model, after='*.q')


def test_published_keys_refuses_two_attentions_in_one_block():
    model = nn.Sequential(scsa.insert(Net(), after=['bn1', 'bn2']))
    with pytest.raises(ValueError, match='a block has two attentions'):
        scsa.published_keys(model)


@pytest.fixture
def resnet():
    return scsa.insert(small_resnet()).eval(), torch.randn(1, 3, 32, 48)


def small_resnet():
    models = pytest.importorskip('torchvision', reason='needs torchvision').models
    return models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1])


def test_copies_and_state_dicts(resnet):
    model, x = resnet
    with torch.no_grad():
        expected = model(x)
        twin = copy.deepcopy(model)
        nn.init.zeros_(model.layer1[0].conv3.attn.q.weight)
        assert torch.equal(twin(x), expected), 'a copy has attentions of its own'
        fresh = scsa.insert(small_resnet()).eval()
        fresh.load_state_dict(twin.state_dict())
        assert torch.equal(fresh(x), expected)


def test_torchscript(resnet):
    model, x = resnet
    with torch.no_grad():
        expected = model(x)
        for scripted in (torch.jit.script(model), torch.jit.trace(model, x)):
            assert distance(scripted(x), expected) < 1e-5
        assert distance(torch.jit.script(model)(x[..., :40]), model(x[..., :40])) < 1e-5


def test_compile_without_a_break(resnet):
    model, x = resnet
    with torch.no_grad():
        compiled = torch.compile(model, backend='eager', fullgraph=True)
        assert distance(compiled(x), model(x)) < 1e-5


def test_fx(resnet):
    model, x = resnet
    with torch.no_grad():
        assert distance(torch.fx.symbolic_trace(model)(x), model(x)) < 1e-5


def test_timm_takes_scsa_by_its_own_argument_though_elsewhere():
    timm = pytest.importorskip('timm', reason='needs timm')
    model = timm.create_model('resnet18', block_args=dict(attn_layer=scsa.SCSA))
    assert isinstance(model.layer1[0].se, scsa.SCSA)


def test_import_scsa_imports_none_of_them():
    code = (
        'import sys, scsa; '
        'print({"timm", "torchvision", "ultralytics", "onnx", "onnxruntime"} & set(sys.modules))'
    )
    hidden = 'import sys; sys.modules["mmengine"] = None; '  # mmpretrain would bring torchvision
    done = subprocess.run([sys.executable, '-c', hidden + code], capture_output=True, text=True)
    assert done.stdout.strip() == 'set()', done.stderr

"""torch.compile: the module and whole backbones, each in one graph with the numbers of eager."""

import copy

import pytest
import torch
from fast_cases import distance, output_and_gradients, reference
from torch._dynamo.backends.registry import lookup_backend

from scsa.attention import SCSA


class Capture:
    """A compiler that counts its graphs and, but for fusing, does what inductor does.

    That is AOTAutograd's capture of forward and backward, without minutes of a C++ compiler.
    """

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return lookup_backend('aot_eager')(graph, inputs)


def compiled(module, **options):
    torch._dynamo.reset()
    return torch.compile(module, fullgraph=True, **options)  # a graph break is an error


def compare(found, expected, tolerance=1e-9):
    """Outputs and gradients, these relative to the largest: some are zero but for rounding."""
    assert distance(found[0], expected[0]) < tolerance
    scale = max(e.abs().max() for e in expected[1:])
    for a, b in zip(found[1:], expected[1:]):
        assert (a - b).abs().max() / scale < tolerance


@pytest.mark.parametrize(
    'mode', ['avg_pool', pytest.param('max_pool', marks=pytest.mark.slow), 'recombination']
)
def test_maps_smaller_than_the_window_in_any_size(mode):
    """Where torch 2.1 failed with a window of symbolic size."""
    if mode == 'recombination' and torch.__version__ < '2.2':
        pytest.skip("torch 2.1's own guards on a convolution of symbolic kernel divide by zero")
    module = SCSA(8, down_sample_mode=mode).double()
    function = compiled(module, dynamic=True, backend='aot_eager')
    for size in ((5, 6), (4, 3), (5, 14), (14, 5), (14, 15)):
        x = torch.randn(2, 8, *size, dtype=torch.float64)
        compare(output_and_gradients(function, module, x), output_and_gradients(module, module, x))


@pytest.mark.parametrize('dynamic', [False, True], ids=['static', 'dynamic'])
@pytest.mark.parametrize(
    'options', [dict(), dict(window_size=-1), dict(window_size=4, head_num=2, qkv_bias=True)]
)
def test_compiled_for_inference(options, dynamic):
    """Without gradients windows and attention are written for the compiler to fuse."""
    module = SCSA(8, **options).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.5, 1.0)
        function = compiled(module, dynamic=dynamic, backend='aot_eager')
        for size in ((14, 15), (30, 9), (5, 16), (7, 7))[: 4 if dynamic else 2]:
            x = torch.randn(2, 8, *size, dtype=torch.float64)
            assert distance(function(x), module(x)) < 1e-12


def test_compiled_code_contains_the_steps_and_not_the_switch():
    """Its one graph has no call back into Python, whatever the backend is set to."""
    module, capture = SCSA(8), Capture()
    function = compiled(module, backend=capture)
    function(torch.randn(2, 8, 14, 14))
    assert capture.graphs == 1


# Backbones


def resnet(depth, **options):
    from scsa.backbones import ResNetSCSA

    return ResNetSCSA(depth, stem_channels=16, base_channels=16, **options)


def two_stages():
    return resnet(18, num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,))


def mobilenet():
    from scsa.backbones import MobileNetV2SCSA

    return MobileNetV2SCSA(widen_factor=0.25)


def swin():
    from scsa.backbones import SwinTransformerSCSA

    arch = dict(embed_dims=16, depths=[2, 2], num_heads=[2, 4])
    return SwinTransformerSCSA(arch=arch, out_indices=(1,), pad_small_map=True, drop_path_rate=0.0)


@pytest.mark.long
@pytest.mark.parametrize(
    ('training', 'dynamic'),
    [
        pytest.param(True, False, id='train-static'),
        pytest.param(True, True, id='train-dynamic', marks=pytest.mark.slow),
        pytest.param(False, False, id='eval-static', marks=pytest.mark.slow),
        pytest.param(False, True, id='eval-dynamic', marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    'build',
    [
        two_stages,
        pytest.param(lambda: resnet(18), marks=pytest.mark.slow, id='resnet18'),
        pytest.param(lambda: resnet(50), marks=pytest.mark.slow, id='resnet50'),
        pytest.param(mobilenet, marks=pytest.mark.slow),
        pytest.param(swin, marks=pytest.mark.slow),
    ],
)
def test_backbones_in_one_graph(build, dynamic, training):
    pytest.importorskip('mmpretrain')
    backbone = build().double()
    backbone.train(training)
    capture = Capture()
    function = compiled(backbone, dynamic=dynamic, backend=capture)
    for size in ((2, 3, 64, 64), (3, 3, 96, 64))[: 1 + dynamic]:
        x = torch.randn(size, dtype=torch.float64)
        found = output_and_gradients(lambda x: function(x)[-1], backbone, x)
        compare(found, output_and_gradients(lambda x: backbone(x)[-1], backbone, x))
    if not dynamic:
        assert capture.graphs == 1


@pytest.mark.slow
@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
def test_inductor_gives_the_numbers_of_eager(training):
    """The compiler that users get, to the end: needs a C++ compiler on the CPU."""
    pytest.importorskip('mmpretrain')
    backbone = two_stages().train(training)
    function = compiled(backbone)
    x = torch.randn(4, 3, 64, 64)
    found = output_and_gradients(lambda x: function(x)[-1], backbone, x)
    compare(found, output_and_gradients(lambda x: backbone(x)[-1], backbone, x), 1e-3)


# On a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.float16, 2e-3)])
@pytest.mark.parametrize('dynamic', [False, True], ids=['static', 'dynamic'])
def test_compiled_on_a_gpu(dynamic, dtype, tolerance):
    module = SCSA(64).cuda()
    function = compiled(module, dynamic=dynamic)
    x = torch.randn(4, 64, 56, 56, device='cuda').to(dtype)

    def autocast(x):
        with torch.autocast('cuda', enabled=dtype == torch.float16):
            return function(x)

    found = output_and_gradients(autocast, module, x)
    exact = copy.deepcopy(module).double()
    expected = output_and_gradients(reference(exact), exact, x.double())
    for a, b in zip(found[:2], expected[:2]):
        assert a.dtype == dtype and distance(a, b) < tolerance


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_a_compiled_resnet_trains_under_autocast():
    from scsa.benchmark.resnet import ResNet50

    model = ResNet50(attention=True).cuda()
    function = compiled(model)
    images = torch.randn(4, 3, 64, 64, device='cuda')
    losses = []
    for call in (function, model):
        model.zero_grad()
        with torch.autocast('cuda', torch.float16):
            loss = call(images).float().square().mean()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=5e-2)

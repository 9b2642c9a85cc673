"""Script, fx, trace, compile and export: most of them fail with the published module."""

import pytest
import torch
from numerics import distance, randomise

from scsa.attention import SCSA

OPTIONS = {
    'default': dict(),
    'max_pool, softmax, heads': dict(
        head_num=4, down_sample_mode='max_pool', gate_layer='softmax', qkv_bias=True
    ),
    'recombination': dict(down_sample_mode='recombination'),
    'whole map': dict(window_size=-1),
}
VERSION = tuple(int(part) for part in torch.__version__.split('+')[0].split('.')[:2])


@pytest.fixture(params=OPTIONS)
def module(request):
    return randomise(SCSA(32, **OPTIONS[request.param])).eval()


SIZES = [(2, 32, 28, 30), (1, 32, 13, 29), (3, 32, 5, 6), (2, 32, 7, 7)]


def agree(captured, module, sizes=SIZES):
    for size in sizes:
        x = torch.randn(size)
        assert distance(captured(x), module(x)) < 1e-6, size


def test_script(module):
    agree(torch.jit.script(module), module)


def test_a_scripted_module_still_refuses_a_wrong_map(module):
    with pytest.raises(torch.jit.Error, match='dim=32 channels, got a map of 16'):
        torch.jit.script(module)(torch.zeros(1, 16, 14, 14))


def test_symbolic_trace(module):
    agree(torch.fx.symbolic_trace(module), module)


def test_a_trace_runs_at_other_sizes(module):
    agree(torch.jit.trace(module, torch.randn(2, 32, 28, 30)), module)


@pytest.mark.long
@pytest.mark.parametrize(
    'module',
    [name for name in OPTIONS if name != 'whole map']
    + [pytest.param('whole map', marks=pytest.mark.slow)],
    indirect=True,
)
@pytest.mark.parametrize(
    ('training', 'dynamic'),
    [
        (True, True),
        pytest.param(False, False, marks=pytest.mark.slow),
        pytest.param(False, True, marks=pytest.mark.slow),
        pytest.param(True, False, marks=pytest.mark.slow),
    ],
)
def test_compile_without_graph_break(module, dynamic, training):
    torch._dynamo.reset()
    # aot_eager captures forward and backward as inductor would, without a C++ compiler's minutes.
    compiled = torch.compile(
        module.train(training), fullgraph=True, dynamic=dynamic, backend='aot_eager'
    )
    x = torch.randn(2, 32, 28, 30)
    gradients = []
    for forward in (compiled, module):
        y = x.clone().requires_grad_()
        forward(y).square().sum().backward()
        gradients.append(y.grad)
    assert distance(*gradients) < 1e-5
    agree(compiled, module, SIZES[:2])


@pytest.mark.skipif(VERSION < (2, 5), reason='torch.export with dynamic shapes needs torch >= 2.5')
def test_export_with_dynamic_batch_height_and_width(module):
    dim = torch.export.Dim
    # From two windows on: torch specialises a size of 1, which one window would give.
    shapes = {0: dim('batch', max=64), 2: dim('h', min=14, max=512), 3: dim('w', min=14, max=512)}
    program = torch.export.export(module, (torch.randn(2, 32, 28, 30),), dynamic_shapes=(shapes,))
    agree(program.module(), module, [(2, 32, 28, 30), (1, 32, 17, 29), (3, 32, 50, 14)])

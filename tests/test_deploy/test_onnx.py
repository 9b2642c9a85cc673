"""Our modules in ONNX give what they give in PyTorch, at sizes that the exporter never saw."""

import pytest
import torch
from numerics import randomise
from torch import nn

from scsa import PCSA, SCSA, SMSA
from scsa.cli import UserError
from scsa.deploy import onnx

pytest.importorskip('onnx', reason='an extra: pip install -e ".[onnx]"')
pytest.importorskip('onnxruntime', reason='an extra: pip install -e ".[onnx]"')

MODULES = {
    'default': (SCSA, dict()),
    'max_pool': (SCSA, dict(down_sample_mode='max_pool')),
    'recombination': (SCSA, dict(down_sample_mode='recombination', window_size=4)),
    'whole map': (SCSA, dict(window_size=-1)),
    'softmax': (SCSA, dict(gate_layer='softmax')),
    'heads, bias, dropout': (SCSA, dict(head_num=4, qkv_bias=True, attn_drop_ratio=0.5)),
    'kernels': (SCSA, dict(group_kernel_sizes=(1, 3, 3, 11), window_size=3)),
    'SMSA': (SMSA, dict()),
    'PCSA': (PCSA, dict()),
}
EXAMPLE = (2, 32, 28, 30)
SIZES = [(1, 32, 13, 29), (3, 32, 5, 6), (2, 32, 7, 40)]  # the second below the window
BAR = 1e-5
# The newer exporter takes seconds a module: one of them by default.
CASES = [
    pytest.param(name, exporter, marks=[] if exporter == 'trace' else pytest.mark.slow)
    for exporter in onnx.EXPORTERS
    for name in MODULES
    if exporter == 'trace' or name != 'default'
]
CASES.append(('default', 'dynamo'))


def skip_without(exporter):
    if exporter == 'dynamo' and onnx.default_exporter() != 'dynamo':
        pytest.skip('this torch is older than that exporter')


def build(name):
    kind, options = MODULES[name]
    return randomise(kind(32, **options)).eval()


@pytest.mark.parametrize(('name', 'exporter'), CASES)
def test_a_module_runs_at_any_size(name, exporter, tmp_path):
    skip_without(exporter)
    module = build(name)
    onnx.export(module, torch.randn(EXAMPLE), tmp_path / 'm.onnx', True, exporter)
    opened = onnx.session(tmp_path / 'm.onnx')
    assert [str(size) for size in opened.get_inputs()[0].shape] == [
        'batch',
        '32',
        'height',
        'width',
    ]
    for size in SIZES:
        assert onnx.difference(module, opened, torch.randn(size)) < BAR, size


@pytest.mark.parametrize('size', SIZES)
def test_a_module_of_a_fixed_size(size, tmp_path):
    module = build('default')
    onnx.export(module, torch.randn(size), tmp_path / 'm.onnx', exporter='trace')
    opened = onnx.session(tmp_path / 'm.onnx')
    assert tuple(opened.get_inputs()[0].shape) == size
    assert onnx.difference(module, opened, torch.randn(size)) < BAR


@pytest.mark.parametrize('exporter', onnx.EXPORTERS)
def test_the_graph_keeps_convolution_and_pooling_whole(exporter, tmp_path):
    """As PyTorch's compiler wants them, in single products and means, no other tool knows them."""
    import onnx as package

    skip_without(exporter)
    onnx.export(build('default'), torch.randn(EXAMPLE), tmp_path / 'm.onnx', True, exporter)
    kinds = [node.op_type for node in package.load(tmp_path / 'm.onnx').graph.node]
    assert 'If' not in kinds and 'Loop' not in kinds
    assert kinds.count('Conv') == 1
    assert kinds.count('AveragePool') == 1


def test_a_file_of_another_model_is_told(tmp_path):
    one, other = build('default'), build('softmax')
    onnx.export(one, torch.randn(EXAMPLE), tmp_path / 'm.onnx', exporter='trace')
    assert onnx.difference(other, onnx.session(tmp_path / 'm.onnx'), torch.randn(EXAMPLE)) > 0.01


def test_several_outputs(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.scsa = build('default')

        def forward(self, x):
            return self.scsa(x), x.mean((2, 3))

    model = Two().eval()
    onnx.export(model, torch.randn(EXAMPLE), tmp_path / 'm.onnx', True, 'trace')
    opened = onnx.session(tmp_path / 'm.onnx')
    assert [output.name for output in opened.get_outputs()] == ['output0', 'output1']
    assert onnx.difference(model, opened, torch.randn(1, 32, 9, 20)) < BAR


def test_what_cannot_be_exported_is_one_line(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.lstsq(x, x).solution

    with pytest.raises(UserError, match='cannot export this model to ONNX'):
        onnx.export(Odd(), torch.randn(1, 1, 4, 4), tmp_path / 'm.onnx', exporter='trace')
    with pytest.raises(UserError, match=r"'old' is unknown; use one of \('trace', 'dynamo'\)"):
        onnx.export(build('default'), torch.randn(EXAMPLE), tmp_path / 'm.onnx', exporter='old')


def test_a_missing_package_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr('scsa.cli.find_spec', lambda name: None)
    with pytest.raises(UserError, match='onnxruntime is not installed: pip install onnxruntime'):
        onnx.session(tmp_path / 'm.onnx')

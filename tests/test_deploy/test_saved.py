"""Programs of PyTorch's own kinds, written to a file and read again."""

import pytest
import torch
from numerics import distance, randomise

from scsa import SCSA

VERSION = tuple(int(part) for part in torch.__version__.split('.')[:2])
SIZES = [(2, 32, 28, 30), (1, 32, 17, 29)]


@pytest.fixture
def module():
    return randomise(SCSA(32)).eval()


def agree(loaded, module, sizes):
    for size in sizes:
        x = torch.randn(size)
        assert distance(loaded(x), module(x)) < 1e-6, size


@pytest.mark.parametrize(
    'capture', [torch.jit.script, lambda module: torch.jit.trace(module, torch.randn(SIZES[0]))]
)
def test_torchscript(module, capture, tmp_path):
    capture(module).save(tmp_path / 'scsa.pt')
    agree(torch.jit.load(tmp_path / 'scsa.pt'), module, [*SIZES, (3, 32, 5, 6)])


@pytest.mark.skipif(VERSION < (2, 5), reason='torch.export with dynamic shapes needs torch >= 2.5')
def test_exported_program(module, tmp_path):
    dim = torch.export.Dim
    shapes = {0: dim('batch', max=64), 2: dim('h', min=14, max=512), 3: dim('w', min=14, max=512)}
    program = torch.export.export(module, (torch.randn(SIZES[0]),), dynamic_shapes=(shapes,))
    torch.export.save(program, tmp_path / 'scsa.pt2')
    loaded = torch.export.load(tmp_path / 'scsa.pt2').module()
    agree(loaded, module, SIZES)
    kinds = [str(node.target) for node in program.graph.nodes]
    assert any('conv2d' in kind for kind in kinds), 'not unrolled, as for a compiler'

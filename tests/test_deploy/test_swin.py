"""Swin for files of any size: the numbers of mmpretrain's own forward, in and out of a file."""

import pytest
import torch
from torch import nn

from scsa.cli import UserError
from scsa.deploy import onnx
from scsa.deploy.swin import open_sizes

utils = pytest.importorskip('mmpretrain.models.utils', reason='its Swin is opened')
embed = pytest.importorskip('mmpretrain.models.utils.embed', reason='its Swin is opened')

# Whole windows, one window, one window high, what needs padding at one edge and at both.
MAPS = [(14, 14), (7, 7), (7, 20), (14, 9), (21, 16), (8, 8), (29, 14)]
BELOW_ONE_WINDOW = [(4, 5), (3, 20), (1, 1)]
SIZES = [(2, 224, 256), (1, 224, 224), (3, 250, 231)]


@pytest.mark.parametrize('pad_small_map', [False, True])
@pytest.mark.parametrize('shift', [0, 3])
def test_window_attention(shift, pad_small_map):
    attention = utils.ShiftWindowMSA(8, 2, 7, shift_size=shift, pad_small_map=pad_small_map).eval()
    for size in MAPS + BELOW_ONE_WINDOW * pad_small_map:
        tokens = torch.randn(2, size[0] * size[1], 8)
        expected = attention(tokens, size)
        with open_sizes(attention):
            assert torch.equal(attention(tokens, size), expected), size


@pytest.mark.parametrize('where', ['corner', 'same'])
def test_padding_to_patches(where):
    padding = embed.AdaptivePadding(kernel_size=4, stride=4, padding=where)
    for size in [(8, 12), (9, 12), (8, 13), (11, 14), (1, 2)]:
        x = torch.randn(1, 3, *size)
        with open_sizes(padding):
            assert torch.equal(padding(x), padding.__class__.forward(padding, x)), size


def test_padding_of_patches_that_overlap_is_left_alone():
    padding = embed.AdaptivePadding(kernel_size=7, stride=4)
    with open_sizes(padding):
        assert 'forward' not in vars(padding)


class Swin(nn.Module):
    """Four small stages, three of them with a shifted block; the map of the last."""

    def __init__(self, **options):
        from scsa.backbones import SwinTransformerSCSA

        super().__init__()
        torch.manual_seed(0)
        arch = dict(embed_dims=16, depths=[2, 1, 2, 2], num_heads=[1, 2, 2, 4])
        self.swin = SwinTransformerSCSA(arch, **options)

    def forward(self, x):
        return self.swin(x)[-1]


@pytest.mark.parametrize('exporter', ['trace', pytest.param('dynamo', marks=pytest.mark.slow)])
@pytest.mark.parametrize('pad_small_map', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_one_file_for_every_size(pad_small_map, exporter, tmp_path):
    pytest.importorskip('onnxruntime', reason='an extra: pip install -e ".[onnx]"')
    if exporter == 'dynamo' and onnx.default_exporter() != 'dynamo':
        pytest.skip('this torch is older than that exporter')
    model = Swin(pad_small_map=pad_small_map).eval()
    onnx.export(model, torch.randn(2, 3, 224, 256), tmp_path / 'swin.onnx', True, exporter)
    opened = onnx.session(tmp_path / 'swin.onnx')
    for batch, *size in SIZES + [(2, 64, 45)] * pad_small_map:  # below one window
        x = torch.randn(batch, 3, *size)
        assert onnx.difference(model, opened, x) < onnx.BAR, (batch, size)


def test_the_model_is_left_as_it_was(tmp_path, monkeypatch):
    pytest.importorskip('onnx', reason='an extra: pip install -e ".[onnx]"')
    model, seen = Swin().eval(), []

    def fails(model, *_, **__):
        seen.extend(name for name, m in model.named_modules() if 'forward' in vars(m))
        raise RuntimeError('the exporter failed')

    monkeypatch.setattr(torch.onnx, 'export', fails)
    with pytest.raises(UserError, match='the exporter failed'):
        onnx.export(model, torch.randn(2, 3, 224, 224), tmp_path / 'swin.onnx', True, 'trace')
    assert 'swin.stages.0.blocks.1.attn' in seen and 'swin.patch_embed.adaptive_padding' in seen
    assert not any('forward' in vars(module) for module in model.modules())

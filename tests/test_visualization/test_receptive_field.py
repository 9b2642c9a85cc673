"""Effective receptive fields against what they must be, and the tool end to end."""

import json

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from tools_helpers import refusal
from torch import nn

pytest.importorskip('mmpretrain')
from scsa.visualization.receptive_field import describe, effective_fields

TOOL = 'tools/visualization/receptive_field.py'


def stack(depth, channels=3):
    """3×3 convolutions with equal weights, whose sum over the channels is 1."""
    convs = [nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(depth)]
    for conv in convs:
        nn.init.constant_(conv.weight, 1 / (9 * channels))
    return nn.Sequential(*convs)


def fields_of(model, *sizes, layer):
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    inputs = [torch.randn(1, 3, *size, dtype=dtype) for size in sizes]
    return effective_fields(model, inputs, [layer])[layer]


def analytic(depth, size):
    """Boxes of three convolved with one another, along an axis, around the middle."""
    line = np.ones(1)
    for _ in range(depth):
        line = np.convolve(line, np.ones(3) / 3)
    if size % 2 == 0:  # the mean of the two cells in the middle
        line = np.convolve(line, [0.5, 0.5])
    margin = (size - len(line)) // 2
    return np.pad(line, (margin, size - len(line) - margin))


@pytest.mark.parametrize('size', [(21, 21), (24, 24), (25, 22)])
@pytest.mark.parametrize('depth', [1, 4, 8])
def test_a_stack_of_convolutions_has_the_analytic_field(depth, size):
    found = fields_of(stack(depth).double(), size, layer=str(depth - 1))
    expected = np.outer(*(analytic(depth, side) for side in size))
    found = found.field / found.field.sum()
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-6, atol=1e-12)


def test_the_field_of_a_global_average_is_flat():
    found = fields_of(nn.Sequential(nn.AdaptiveAvgPool2d(1)), (9, 9), layer='0')
    np.testing.assert_allclose(found.field, found.field.mean(), rtol=1e-6)
    # 50 % of 81 pixels are inside 7 × 7, 95 % only in the whole.
    assert (found.side(0.5), found.side(0.95), found.map_size) == (7, 9, (1, 1))


@pytest.mark.parametrize('size', [(7, 7), (8, 8), (13, 10)])
def test_the_centre_is_that_of_the_map(size):
    found = fields_of(stack(1), size, layer='0')
    assert found.map_size == size and found.offset == pytest.approx((0, 0), abs=1e-6)
    for axis in (0, 1):
        np.testing.assert_allclose(found.field, np.flip(found.field, axis), rtol=1e-5)
    inside = [3 if side % 2 else 4 for side in size]
    assert (found.field > 0).sum() == inside[0] * inside[1]
    assert found.share[max(inside)] == pytest.approx(1)


def test_the_offset_says_where_a_strided_map_looks():
    """Cell 1 of 3 at stride 32 looks at pixel 32; the middle of 96 pixels is at 47.5."""
    convs = [nn.Conv2d(3, 3, 3, stride=2, padding=1, bias=False) for _ in range(5)]
    for conv in convs:
        nn.init.constant_(conv.weight, 1 / 27)
    found = fields_of(nn.Sequential(*convs), (96, 96), layer='4')
    assert found.map_size == (3, 3) and found.offset == pytest.approx((-15.5, -15.5), abs=1e-3)


def test_the_field_is_the_mean_over_inputs_brought_to_one_size():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    inputs = [torch.randn(1, 3, *size) for size in ((11, 11), (11, 11), (15, 9))]
    both = effective_fields(model, inputs[:2], ['2'])['2'].field
    each = [effective_fields(model, [x], ['2'])['2'].field for x in inputs[:2]]
    np.testing.assert_allclose(both, np.mean(each, 0), rtol=1e-6)
    assert effective_fields(model, inputs, ['2'])['2'].field.shape == (11, 11)


def test_sides_of_squares():
    field = np.zeros((6, 6))
    field[2:4, 2:4] = 0.6 / 4
    field[0, 0] = 0.4
    found = describe(field, (1, 1))
    assert found.share.tolist() == pytest.approx([0, 0, 0.6, 0.6, 0.6, 0.6, 1])
    assert [found.side(share) for share in (0.5, 0.6, 0.95)] == [2, 2, 6]
    assert found.offset == pytest.approx((-1, -1))


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation'])
def test_the_tool(task, spec, images, tmp_path, in_process):
    source = images / 'grey.png' if task == 'classification' else images
    in_process(
        TOOL, source, '--model', spec(task, 'a'), '--model', spec(task, 'b'), '--stages', 2, 4,
        '--out-dir', tmp_path, '--device', 'cpu', '--format', 'png', 'svg',
    )  # fmt: skip
    numbers = json.loads((tmp_path / 'field.json').read_text())
    arrays = np.load(tmp_path / 'field.npz')
    assert numbers['a'] == numbers['b'] and len(arrays) == 8
    for layer, one in numbers['a'].items():
        share, field = arrays[f'a/{layer}/share'], arrays[f'a/{layer}/field']
        assert list(field.shape) == one['input'] and field.max() > 0
        assert share[one['side_50']] >= 0.5 > share[one['side_50'] - 1]
        assert share[one['side_95']] >= 0.95 > share[one['side_95'] - 1]
    assert imread(tmp_path / 'field.png').std() > 0
    assert (tmp_path / 'field.svg').stat().st_size > 1000


def test_refusals(spec, images, monkeypatch, capsys):
    def line(*arguments):
        model = ('--model', spec('classification'), '--device', 'cpu')
        return refusal(monkeypatch, capsys, TOOL, images / 'grey.png', *model, *arguments)

    assert '--stages: SCSA has stages 1 to 4' in line('--stages', 5)
    assert 'near it: backbone.layer4' in line('--layers', 'backbone.layer5')

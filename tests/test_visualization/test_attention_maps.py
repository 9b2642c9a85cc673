"""The gates that are drawn are the gates that are used; the tool end to end."""

import json

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from numerics import randomise
from tools_helpers import refusal
from torch import nn

from scsa import PCSA, SCSA, SMSA
from scsa.attention.variants import ParallelSCSA, PCSABeforeSMSA, UnsharedSCSA
from scsa.visualization.attention_maps import (
    apply_gates,
    attention_maps,
    difference,
    find_attentions,
    pixel_gate,
)

TOOL = 'tools/visualization/attention_maps.py'
MODULES = {
    'SCSA': lambda: SCSA(16),
    'heads': lambda: SCSA(16, head_num=4, qkv_bias=True),
    'softmax': lambda: SCSA(16, gate_layer='softmax'),
    'max_pool': lambda: SCSA(16, down_sample_mode='max_pool', window_size=3),
    'recombination': lambda: SCSA(16, down_sample_mode='recombination', window_size=2),
    'whole': lambda: SCSA(16, window_size=-1),
    'SMSA': lambda: SMSA(16),
    'PCSA': lambda: PCSA(16),
    'PCSABeforeSMSA': lambda: PCSABeforeSMSA(16),
    'ParallelSCSA': lambda: ParallelSCSA(16),
    'UnsharedSCSA': lambda: UnsharedSCSA(16),
}


@pytest.mark.parametrize('name', MODULES)
def test_the_gates_give_the_output_again(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 1), randomise(MODULES[name]())).eval()
    names = find_attentions(model)
    halves = {'PCSABeforeSMSA', 'ParallelSCSA', 'UnsharedSCSA'}
    assert len(names) == (2 if name in halves else 1)
    found = attention_maps(model, torch.randn(1, 3, 13, 10), names)
    for arrays in found.values():
        assert difference(arrays) <= 1e-6
        np.testing.assert_allclose(apply_gates(arrays), arrays['after'], rtol=1e-4, atol=1e-6)
        if 'attention' in arrays:
            np.testing.assert_allclose(arrays['attention'].sum(2), 1, rtol=1e-5)
        if 'height' in arrays:
            assert arrays['height'].shape == (16, 13) and arrays['width'].shape == (16, 10)
            groups = np.mean([pixel_gate(arrays, group) for group in range(4)], 0)
            np.testing.assert_allclose(groups, pixel_gate(arrays), rtol=1e-5)
            third = arrays['height'][8:12, :, None] * arrays['width'][8:12, None, :]
            np.testing.assert_allclose(pixel_gate(arrays, 2), third.mean(0), rtol=1e-5)


def test_the_attention_is_what_makes_the_channel_gate():
    """Written out once more, from the matrix that is drawn."""
    torch.manual_seed(0)
    module = randomise(SCSA(16, head_num=2)).eval()
    (arrays,) = attention_maps(nn.Sequential(module), torch.randn(1, 16, 14, 14), ['0']).values()
    x = arrays['before'] * arrays['height'][:, :, None] * arrays['width'][:, None, :]
    y = nn.functional.avg_pool2d(torch.from_numpy(x)[None], 7)
    v = module.v(module.norm(y))[0].mean((1, 2)).view(2, 8, 1)
    mean = torch.from_numpy(arrays['attention']) @ v
    np.testing.assert_allclose(
        mean.sigmoid().flatten().detach().numpy(), arrays['channel'], rtol=1e-5
    )


SLOW = [pytest.param(task, marks=pytest.mark.slow) for task in ('detection', 'segmentation')]


@pytest.mark.parametrize('task', ['classification', *SLOW])
def test_the_tool(task, spec, images, tmp_path, in_process, capsys):
    source = images / ('grey.png' if task == 'classification' else '*o*.*')
    layers = ['backbone.layer1.0.attn', 'backbone.layer4.1.attn']
    in_process(
        TOOL, source, '--model', spec(task), '--out-dir', tmp_path, '--device', 'cpu',
        '--layers', *layers, '--format', 'svg', 'png',
    )  # fmt: skip
    folder = tmp_path / ('grey' if task == 'classification' else 'colour') / 'SCSA'
    numbers = json.loads((folder / 'gates.json').read_text())
    arrays = np.load(folder / 'gates.npz')
    assert list(numbers) == layers
    for layer in layers:
        one = {key.split('/')[1]: arrays[key] for key in arrays if key.startswith(f'{layer}/')}
        assert difference(one) == pytest.approx(numbers[layer]['difference'])
        assert difference(one) <= 1e-6
        assert numbers[layer]['shape'] == list(one['after'].shape)
        assert numbers[layer]['channel']['mean'] == pytest.approx(one['channel'].mean())
        assert imread(folder / f'{layer}.png').std() > 0
        assert (folder / f'{layer}.svg').stat().st_size > 1000
    # Of the three images one is broken.
    expected = '1 images, 0 skipped' if task == 'classification' else '1 images, 1 skipped'
    assert expected in capsys.readouterr().out


def test_two_images_of_one_name_are_both_kept(spec, images, tmp_path, in_process):
    for folder in ('a', 'b'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'x.png').write_bytes((images / 'grey.png').read_bytes())
    layer, out = 'backbone.layer4.1.attn', tmp_path / 'out'
    in_process(
        TOOL, f'{tmp_path}/*/x.png', '--model', spec('classification'), '--layers', layer,
        '--out-dir', out, '--device', 'cpu',
    )  # fmt: skip
    assert len(list(out.glob(f'*/SCSA/{layer}.png'))) == 2


def test_refusals(spec, images, monkeypatch, capsys):
    def line(*arguments):
        model = ('--model', spec('classification'), '--device', 'cpu')
        return refusal(monkeypatch, capsys, TOOL, images / 'grey.png', *model, *arguments)

    wrong = line('--layers', 'backbone.layer1.0.conv1')
    assert "no SCSA, SMSA or PCSA is called 'backbone.layer1.0.conv1'; there are" in wrong
    assert 'backbone.layer1.0.attn has heads 1 to 1' in line('--head', '2')
    with pytest.raises(Exception, match='there is no SCSA, SMSA or PCSA'):
        find_attentions(nn.Conv2d(3, 3, 1))

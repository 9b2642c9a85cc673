"""The figures of the config tables: standard inputs, counts, the table itself."""

import runpy
import sys
from pathlib import Path

import pytest
from torch import nn

pytest.importorskip('mmcv.ops', reason='mmdet and mmseg need mmcv with its compiled operators')
pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
import mmpretrain
import yaml
from mmengine.config import Config

from scsa import SCSA, backend
from scsa.analysis.complexity import (
    analyze,
    build,
    count_flops,
    count_parameters,
    standard_input,
)
from scsa.analysis.config_table import documented, renew
from scsa.cli import UserError

ROOT = Path(__file__).parents[2]


def read(name):
    return Config.fromfile(ROOT / 'configs' / name)


@pytest.mark.parametrize(
    ('name', 'size'),
    [
        ('detection/faster-rcnn_r50-scsa_fpn_1x_coco.py', (800, 1344)),
        ('detection/cascade-rcnn_r50-scsa_fpn_1x_voc0712.py', (608, 1024)),
        ('segmentation/upernet_swin-t-scsa_8xb2-80k_ade20k-512x512.py', (512, 512)),
        ('quickstart/fpn_r18_scenes.py', (96, 96)),
        ('classification/resnet50_1xb128_in1k_scsa.py', (224, 224)),
    ],
)
def test_standard_input_is_what_the_network_sees(name, size):
    assert standard_input(read(name)) == size


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)

    def forward(self, image, mode):
        return self.conv(image)


def test_a_multiply_add_counts_once():
    assert count_flops(Tiny(), 10, 12) == 3 * 8 * 9 * 10 * 12
    assert count_parameters(Tiny()) == 3 * 8 * 9


def test_published_size_and_the_cost_that_scsa_adds():
    scsa = build(read('classification/resnet50_1xb128_in1k_scsa.py'))
    plain = build(read('classification/resnet50_1xb128_in1k.py'))
    assert count_parameters(scsa) == 25617448
    # 16 of a channel of every block: 64, 128, 256, 512 channels in 3, 4, 6, 3 blocks.
    channels = 3 * 64 + 4 * 128 + 6 * 256 + 3 * 512
    assert count_parameters(scsa) - count_parameters(plain) == 16 * channels
    extra = count_flops(scsa, 64, 64) - count_flops(plain, 64, 64)
    # At least what the strips cost: kernels of 3, 5, 7 and 9, on rows and columns.
    sides = (3, 64, 16), (4, 128, 8), (6, 256, 4), (3, 512, 2)
    strips = sum(blocks * c * 2 * side * 6 for blocks, c, side in sides)
    assert strips < extra < count_flops(plain, 64, 64)


def test_table_is_written_between_its_marks(tmp_path, capsys):
    (tmp_path / 'docs').mkdir()
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    page = tmp_path / 'docs/page.md'
    pattern = 'quickstart/fpn_r18_scenes*.py'
    page.write_text(f'a\n<!-- configs: {pattern} -->\nold\n<!-- end of configs -->\nb\n')
    renew(page)
    text = page.read_text()
    assert text.startswith('a\n') and text.endswith('b\n') and 'old' not in text
    names = ['quickstart/fpn_r18_scenes.py', 'quickstart/fpn_r18_scenes_scsa.py']
    assert documented(page) == {n: count_parameters(build(read(n))) for n in names}
    assert text.count('| 96 × 96 | 0.2 |') == 2
    renew(page)
    assert page.read_text() == text


def test_page_without_a_table(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('nothing')
    with pytest.raises(UserError, match='has no table'):
        renew(page)


PUBLISHED = {
    'classification/resnet50_1xb128_in1k.py': ('resnet', 'resnet50_8xb32_in1k'),
    'classification/mobilenet-v2_1xb96_in1k.py': ('mobilenet_v2', 'mobilenet-v2_8xb32_in1k'),
    'classification/swin-tiny_16xb64_in1k.py': ('swin_transformer', 'swin-tiny_16xb64_in1k'),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_agrees_with_the_table_that_mmpretrain_publishes(name):
    folder, model = PUBLISHED[name]
    path = Path(mmpretrain.__file__).parent / '.mim/configs' / folder / 'metafile.yml'
    if not path.exists():
        pytest.skip(f'mmpretrain was installed without {path.name}')
    models = yaml.safe_load(path.read_text())['Models']
    (facts,) = (one['Metadata'] for one in models if one['Name'] == model)
    found = analyze(build(read(name)), 224, 224)
    assert found.flops[''].as_published == pytest.approx(facts['FLOPs'], rel=0.01)
    assert found.parameters[''] == pytest.approx(facts['Parameters'], rel=0.002)


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)

    def forward(self, image, mode):
        x = self.conv(image)
        weights = x.flatten(2) @ x.flatten(2).transpose(1, 2)  # 4 x 4, over 20 pixels
        return x * x.mean((2, 3), keepdim=True).sigmoid(), weights


def test_each_kind_of_work():
    found = analyze(Gate(), 4, 5)
    # Read by the mean: 80 values; given by the sigmoid: 4; by the product with the gate: 80.
    assert found.flops[''] == (3 * 4 * 20, 4 * 20 * 4, 80 + 4 + 80)
    assert found.flops['conv'] == (3 * 4 * 20, 0, 0)
    assert found.activations == {'': 80 + 16, 'conv': 80}
    assert found.parameters == {'': 12, 'conv': 12}


@pytest.mark.parametrize('mode', ['avg_pool', 'max_pool', 'recombination'])
def test_every_path_of_scsa_counts_the_same(mode):
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = SCSA(8, down_sample_mode=mode)
            self.lift = nn.Conv2d(3, 8, 1, bias=False)

        def forward(self, image, mode):
            return self.attn(self.lift(image))

    counted = []
    for name in ('eager', 'reference'):
        with backend(name):
            counted.append(analyze(Module(), 14, 21))
    assert counted[0] == counted[1]
    attn = counted[0].flops['attn']
    # Two products of queries, keys and values of 6 windows; the second may be of their mean.
    assert attn.products in (8 * 8 * (6 + 1), 8 * 8 * (6 + 6))
    recombined = 6 * 8 * 8 * 49 if mode == 'recombination' else 0
    # Both strips in one row, 4 zeros between, kernels of 9; norms count 5 for each value.
    assert attn.layers == recombined + 8 * (35 + 4) * 9 + 5 * 8 * (35 + 6)
    # At least: the map is read for both strips and multiplied by three gates.
    assert attn.elementwise >= 4 * 8 * 14 * 21


def test_tool_compares_with_the_first(monkeypatch, capsys):
    configs = [ROOT / f'configs/quickstart/fpn_r18_scenes{x}.py' for x in ('', '_scsa')]
    tool = str(ROOT / 'tools/analysis/complexity.py')
    arguments = [tool, *map(str, configs), '--shape', '64', '96', '--by-module', '2']
    monkeypatch.setattr(sys, 'argv', arguments)
    runpy.run_path(tool, run_name='__main__')
    seen = capsys.readouterr().out
    plain, scsa = (build(Config.fromfile(path)) for path in configs)
    more = count_parameters(scsa) - count_parameters(plain)
    assert f'| 64 × 96 | {count_parameters(scsa):,} (+{more:,}) |' in seen
    assert seen.count('    layer1 ResLayer ') == 2 and 'layer1.0' not in seen
    assert 'no cost is known of: ' in seen


def test_config_that_does_not_say_how_large_an_image_is():
    cfg = read('quickstart/resnet18_digits.py')
    assert standard_input(cfg) == (56, 56)
    cfg.train_dataloader.dataset.pipeline = [dict(type='PackInputs')]
    with pytest.raises(UserError, match='does not say how large'):
        standard_input(cfg)

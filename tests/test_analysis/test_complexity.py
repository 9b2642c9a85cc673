"""The figures of the config tables: standard inputs, counts, the table itself."""

from pathlib import Path

import pytest
from torch import nn

pytest.importorskip('mmcv.ops', reason='mmdet and mmseg need mmcv with its compiled operators')
pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
from mmengine.config import Config

from scsa.analysis.complexity import build, count_flops, count_parameters, standard_input
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

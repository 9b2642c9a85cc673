"""The tool on the quick starts, with weights of a seed; the large backbones by --slow."""

import runpy
import sys

import pytest
import torch
from tools_helpers import ROOT, refusal, save_checkpoint

from scsa.deploy import onnx

pytest.importorskip('onnx', reason='an extra: pip install -e ".[onnx]"')
pytest.importorskip('onnxruntime', reason='an extra: pip install -e ".[onnx]"')
pytest.importorskip('mmpretrain', reason='the tools drive OpenMMLab')

TOOL = 'tools/deploy/onnx.py'
DIGITS = 'configs/quickstart/resnet18_digits_scsa.py'


@pytest.fixture
def export(monkeypatch, tmp_path, capsys):
    """Runs the tool in this process; returns what it printed."""

    def call(config, *options, classes='0123456789'):
        save_checkpoint(config, tmp_path / 'weights.pth', list(classes))
        arguments = [TOOL, ROOT / config, tmp_path / 'weights.pth', *options]
        monkeypatch.setattr(sys, 'argv', [str(argument) for argument in arguments])
        monkeypatch.setattr(sys, 'path', [str(ROOT / 'tools/deploy'), *sys.path])
        runpy.run_path(str(ROOT / TOOL), run_name='__main__')
        return capsys.readouterr().out

    return call


def test_a_classifier_at_any_size(export, tmp_path):
    said = export(DIGITS, '--dynamic', '--check', '--exporter', 'trace')
    assert 'logits of the classes' in said
    assert 'input: 3 x 56 x 56, RGB, minus [127.5, 127.5, 127.5], over [127.5' in said
    lines = [line for line in said.splitlines() if line.startswith('check at')]
    assert len(lines) == 3
    assert all(float(line.split('off by ')[1].split()[0]) < onnx.BAR for line in lines)
    assert (tmp_path / 'weights.onnx').exists()


def test_a_difference_is_an_error(export, monkeypatch, capsys):
    monkeypatch.setattr(onnx, 'BAR', 0.0)
    with pytest.raises(SystemExit) as stop:
        export(DIGITS, '--check', '--exporter', 'trace')
    assert stop.value.code == 2
    assert 'gives other numbers than the model' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('config', 'outputs'),
    [
        ('faster-rcnn_r18_scenes_scsa', 'maps of the neck by level'),
        ('retinanet_r18_scenes_scsa', 'outputs of the head by level, not decoded'),
        pytest.param(
            *('fpn_r18_scenes_scsa', 'logits of the classes for each pixel'),
            marks=pytest.mark.xfail(
                reason='at other sizes the logits differ by more than 1e-4, and the tool says so',
                strict=True,
            ),
        ),
    ],
)
def test_detection_and_segmentation(export, config, outputs):
    pytest.importorskip('mmcv.ops', reason='mmdet and mmseg need its compiled operators')
    classes = ['background', *'0123456789'] if config.startswith('fpn') else list('0123456789')
    options = ('--shape', '64', '96', '--dynamic', '--check', '--exporter', 'trace')
    said = export(f'configs/quickstart/{config}.py', *options, classes=classes)
    assert outputs in said and said.count('check at') == 3


def test_refusals(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, 'path', ['', *sys.path])
    assert 'config not found' in refusal(monkeypatch, capsys, TOOL, 'none.py', 'none.pth')
    monkeypatch.setattr(sys, 'path', ['', *sys.path])
    assert 'checkpoint not found' in refusal(monkeypatch, capsys, TOOL, DIGITS, 'none.pth')


BACKBONES = {
    'resnet50_1xb128_in1k_scsa': [(2, 64, 96), (1, 224, 224), (3, 160, 64)],
    'mobilenet-v2_1xb96_in1k_scsa': [(2, 64, 96), (1, 224, 224), (3, 160, 64)],
    # Seven pixels at least in the last stage, as mmpretrain's Swin wants them; in the example two
    # windows at least.
    'swin-tiny_16xb64_in1k_scsa': [(2, 256, 256), (1, 250, 231), (3, 224, 224)],
}


@pytest.mark.slow
def test_a_swin_is_checked_at_sizes_that_it_takes(export):
    config = 'configs/classification/swin-tiny_16xb64_in1k_scsa.py'
    said = export(config, '--dynamic', '--check', '--exporter', 'trace')
    checked = [line.split(':')[0] for line in said.splitlines() if line.startswith('check at')]
    sizes = ['1 x 3 x 224 x 224', '3 x 3 x 224 x 448', '2 x 3 x 448 x 224']
    assert checked == [f'check at {size}' for size in sizes]


@pytest.mark.slow
@pytest.mark.xfail(
    torch.__version__ < '2.2',
    reason='its exporter loses the size of the map, and lays out no pooling to 6 cells without',
    strict=True,
)
def test_upernet_of_a_fixed_size(export):
    pytest.importorskip('mmcv.ops', reason='mmseg needs its compiled operators')
    options = ('--shape', '192', '192', '--check', '--exporter', 'trace')
    classes = ['background', *'0123456789']
    said = export('configs/quickstart/upernet_r18_scenes_scsa.py', *options, classes=classes)
    assert said.count('check at') == 1


@pytest.mark.slow
@pytest.mark.parametrize('exporter', onnx.EXPORTERS)
@pytest.mark.parametrize('name', BACKBONES)
def test_the_paper_s_backbones_at_three_sizes(name, exporter, tmp_path):
    from mmengine.config import Config

    from scsa.analysis.complexity import build
    from scsa.analysis.formula import fill
    from scsa.deploy.models import TensorsOnly

    if exporter == 'dynamo' and onnx.default_exporter() != 'dynamo':
        pytest.skip('this torch is older than that exporter')
    config = Config.fromfile(ROOT / f'configs/classification/{name}.py')
    model = TensorsOnly(fill(build(config)), 'classification').eval()
    sizes = [(batch, 3, height, width) for batch, height, width in BACKBONES[name]]
    onnx.export(model, torch.randn(sizes[0]), tmp_path / 'model.onnx', True, exporter)
    opened = onnx.session(tmp_path / 'model.onnx')
    for size in sizes:
        assert onnx.difference(model, opened, torch.randn(size)) <= onnx.BAR, size

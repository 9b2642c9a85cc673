"""int8 by onnxruntime: the file is small, and its numbers are near those of float32."""

import runpy
import sys

import numpy as np
import pytest
import torch
from numerics import randomise
from tools_helpers import ROOT, refusal, save_checkpoint

from scsa import SCSA
from scsa.cli import UserError
from scsa.deploy import int8, onnx

pytest.importorskip('onnx', reason='an extra: pip install -e ".[onnx]"')
pytest.importorskip('onnxruntime', reason='an extra: pip install -e ".[onnx]"')

TOOL = 'tools/deploy/int8.py'
DIGITS = 'configs/quickstart/resnet18_digits_scsa.py'


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.ReLU(), randomise(SCSA(64)),
        torch.nn.Conv2d(64, 128, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(128, 10),
    )  # fmt: skip
    path = tmp_path_factory.mktemp('int8') / 'model.onnx'
    onnx.export(model.eval(), torch.randn(1, 3, 28, 28), path)
    return path


def random_images(count):
    draw = np.random.default_rng(0)
    return [draw.standard_normal((1, 3, 28, 28), np.float32) for _ in range(count)]


def test_small_and_near(source, tmp_path):
    target = tmp_path / 'int8.onnx'
    int8.quantise(source, target, random_images(8))
    assert target.stat().st_size < 0.5 * source.stat().st_size
    both = [onnx.session(path) for path in (source, target)]
    for image in random_images(12)[8:]:  # others than those it was calibrated on
        expected, found = (opened.run(None, {onnx.INPUT: image})[0] for opened in both)
        assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_the_attention_stays_in_float(source, tmp_path):
    import onnx as onnx_package

    int8.quantise(source, tmp_path / 'int8.onnx', random_images(2))
    nodes = onnx_package.load(tmp_path / 'int8.onnx').graph.node
    made_by = {name: node.op_type for node in nodes for name in node.output}
    softmax = [node for node in nodes if node.op_type == 'Softmax']
    assert softmax and all(made_by[node.input[0]] != 'DequantizeLinear' for node in softmax)
    convolutions = [node for node in nodes if node.op_type == 'Conv']
    assert all(made_by[node.input[0]] == 'DequantizeLinear' for node in convolutions)


def test_top1_and_time(source):
    opened = onnx.session(source)
    images = random_images(4)
    answers = [int(opened.run(None, {onnx.INPUT: image})[0].argmax()) for image in images]
    assert int8.top1(opened, zip(images, answers)) == 100
    assert int8.top1(opened, zip(images, [answers[0], *(10 for _ in answers[1:])])) == 25
    assert all(time > 0 for time in int8.milliseconds([opened, opened], images[0], repeats=3))


def test_nothing_to_calibrate_on(source, tmp_path):
    with pytest.raises(UserError, match='--images 1 or more'):
        int8.quantise(source, tmp_path / 'int8.onnx', [])


def test_the_tool(monkeypatch, tmp_path, capsys):
    pytest.importorskip('mmpretrain', reason='the tools drive OpenMMLab')
    from mmengine.config import Config

    from scsa.datasets.digits import write_digits
    from scsa.deploy.models import TensorsOnly
    from scsa.visualization.models import load

    weights, exported = tmp_path / 'weights.pth', tmp_path / 'weights.onnx'
    save_checkpoint(DIGITS, weights, list('0123456789'))
    loaded = load('model', ROOT / DIGITS, weights, 'cpu')
    onnx.export(TensorsOnly(loaded.model, loaded.task).eval(), torch.randn(1, 3, 56, 56), exported)
    write_digits(tmp_path / 'digits', 56)
    cfg = Config.fromfile(ROOT / DIGITS)
    for name in ('train_dataloader', 'test_dataloader'):
        cfg[name].dataset.update(data_root=str(tmp_path / 'digits'), indices=list(range(0, 40, 8)))
    cfg.dump(tmp_path / 'config.py')
    arguments = [TOOL, tmp_path / 'config.py', exported, '--images', '4']
    monkeypatch.setattr(sys, 'argv', [str(argument) for argument in arguments])
    monkeypatch.setattr(sys, 'path', [str(ROOT / 'tools/deploy'), *sys.path])
    runpy.run_path(str(ROOT / TOOL), run_name='__main__')
    lines = capsys.readouterr().out.splitlines()
    before, after = (line for line in lines if 'ms an image' in line)
    written = tmp_path / 'weights.int8.onnx'
    for line, file in ((before, exported), (after, written)):
        assert f'{file}: {file.stat().st_size / 2**20:.1f} MiB, ' in line
    assert written.stat().st_size < 0.3 * exported.stat().st_size
    assert before.count('top-1') == after.count('top-1') == 1


def test_refusals(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, 'path', ['', *sys.path])
    line = refusal(monkeypatch, capsys, TOOL, ROOT / DIGITS, tmp_path / 'none.onnx')
    assert 'ONNX file not found' in line and 'tools/deploy/onnx.py' in line
    pytest.importorskip('mmdet', reason='its config inherits from mmdet')
    (tmp_path / 'some.onnx').touch()
    detector = ROOT / 'configs/quickstart/faster-rcnn_r18_scenes_scsa.py'
    monkeypatch.setattr(sys, 'path', ['', *sys.path])
    line = refusal(monkeypatch, capsys, TOOL, detector, tmp_path / 'some.onnx')
    assert 'is no classifier of mmpretrain' in line

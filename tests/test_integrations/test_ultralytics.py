"""`SCSA` and `C2SCSA` in model YAMLs of the real ultralytics: `nox -s ultralytics-integrations`."""

import contextlib
import copy
import os
import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from numerics import distance, randomise
from torch import nn

os.environ.setdefault('YOLO_OFFLINE', 'True')
ultralytics = pytest.importorskip('ultralytics', reason='needs ultralytics, which has a session')
from scsa import SCSA  # noqa: E402
from scsa.integrations import ultralytics as ours  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / 'examples' / 'ultralytics'
YOLO11 = Path(ultralytics.__file__).parent / 'cfg/models/11/yolo11.yaml'
CHANNELS = dict(n=256, s=512, m=512, l=512, x=768)  # of YOLO11's last stage


def load(folder, name):
    """A YOLO of a YAML; by its name alone, since folders called as scales mislead ultralytics."""
    with contextlib.chdir(folder):
        return ultralytics.YOLO(name)


def build(folder, text, scale='n'):
    """The model of a YAML of that text."""
    (folder / 'yolo11.yaml').write_text(text)
    return load(folder, f'yolo11{scale}.yaml').model


def lively(model):
    """Weights at which the maps neither die nor burst, and norms that a fuse must reckon with."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(4, 3, 96, 96))  # fills the running statistics
    return model.eval()


@pytest.mark.parametrize('scale', 'nsmlx')
def test_yolo11_with_c2scsa_in_the_place_of_c2psa(scale, tmp_path):
    text = YOLO11.read_text()
    plain = build(tmp_path, text, scale).model[10]
    block = build(tmp_path, text.replace('C2PSA', 'C2SCSA'), scale).model[10]
    assert isinstance(block, ours.C2SCSA)
    assert block.cv1.conv.in_channels == plain.cv1.conv.in_channels == CHANNELS[scale]
    assert len(block.m) == len(plain.m)
    assert [m.dim for m in block.modules() if isinstance(m, SCSA)] == (
        [CHANNELS[scale] // 2] * len(plain.m)
    )


def test_c2scsa_is_c2psa_but_for_the_attention():
    from ultralytics.nn.modules.block import C2PSA

    block = ours.C2SCSA([3, 64], -1, 2, 1.0, 64, dict(window_size=4))
    plain = C2PSA(64, 64, 2)
    for theirs in plain.m:
        theirs.attn = SCSA(32, window_size=4)
    randomise(plain)
    block.load_state_dict(plain.state_dict())
    x = torch.randn(2, 64, 12, 10)
    assert distance(block.eval()(x), plain.eval()(x)) < 1e-6


@pytest.mark.parametrize('name', ['scsa-yolo11', 'scsa-yolo11-cls'])
@pytest.mark.parametrize('scale', 'nsmlx')
def test_the_examples_find_their_channels_at_every_scale(name, scale):
    model = load(EXAMPLES, f'{name.replace("11", "11" + scale)}.yaml').model
    width, most = model.yaml['scales'][scale][1:]
    scaled = [int(min(channels, most) * width) for channels in (128, 256, 512)]
    found = [m.dim for m in model.modules() if isinstance(m, ours.SCSA)]
    assert found == (scaled[:2] if 'cls' in name else [scaled[1], scaled[2], scaled[1]])
    assert model.yaml['backbone'][-1][2:] == ['C2SCSA', [512]], 'the YAML is kept as it was'


def test_a_line_takes_other_arguments_by_name_and_several_repeats(tmp_path):
    line = '[9, 4, SCSA, [{head_num: 2}]]'
    model = build(tmp_path, YOLO11.read_text().replace('[-1, 2, C2PSA, [1024]]', line))
    assert [type(m) for m in model.model[10]] == [ours.SCSA] * 2, 'four, of which depth keeps half'
    assert {(m.dim, m.head_num) for m in model.model[10]} == {(256, 2)}


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('[-1, 1, SCSA, [64]]', r'SCSA finds its channels and .* by name, not 64: .*window_size'),
        ('[-1, 1, C2SCSA, [1024, 0.5]]', r'C2SCSA finds its channels and .* by name, not 0\.5'),
        ('[[-1, 6], 1, SCSA, []]', r'follows one layer, and not \[-1, 6\]; .*Concat'),
        ('[-1, 1, SCSA, [{heads: 2}]]', 'heads'),
    ],
)
def test_a_wrong_line_says_what_is_right(line, message, tmp_path):
    text = YOLO11.read_text().replace('[-1, 1, SPPF, [1024, 5]]', line)
    with pytest.raises((ValueError, TypeError), match=message):
        build(tmp_path, text)


def test_another_parse_model_is_named():
    with pytest.raises(RuntimeError, match=r'reads a model YAML in another way than 8\.4\.190'):
        ours.SCSA('ch', -1)
    with pytest.raises(RuntimeError, match=r'in another way'):
        ours.C2SCSA([8, 8], -1, 1, 'depth')


@pytest.fixture
def detector():
    return lively(load(EXAMPLES, 'scsa-yolo11n.yaml').model)


def test_fuse_copies_and_pickles_give_the_same(detector):
    x = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        expected = detector(x)[0]
        assert expected.std() > 0
        assert torch.equal(pickle.loads(pickle.dumps(detector))(x)[0], expected)
        fused = copy.deepcopy(detector).fuse()
        assert fused.is_fused() and not detector.is_fused()
        assert distance(fused(x)[0], expected) < 1e-4


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A detector after two epochs on 24 digit scenes, and its folder."""
    from scsa.datasets.digit_scenes import write

    folder = tmp_path_factory.mktemp('yolo')
    write(folder / 'scenes', {'train': 16, 'val': 8}, 128, 0)
    data = runpy.run_path(str(EXAMPLES / 'train.py'))['to_yolo'](folder / 'scenes')
    with contextlib.chdir(EXAMPLES):  # the training reads the YAML again
        model = ultralytics.YOLO('scsa-yolo11n.yaml')
        model.train(
            data=str(data), epochs=2, imgsz=128, batch=8, workers=0,
            device='cpu', plots=False, project=str(folder), name='run', warmup_epochs=0,
            optimizer='SGD', lr0=0.01, nbs=8,  # a step for each batch of 8
        )  # fmt: skip
    return model, folder


@pytest.mark.long
def test_two_epochs_train_the_attention_and_the_checkpoint_has_it(trained):
    _, folder = trained
    results = (folder / 'run/results.csv').read_text().strip().splitlines()
    losses = [float(line.split(',')[2]) for line in results[1:]]
    assert len(losses) == 2 and np.isfinite(losses).all()
    last = ultralytics.YOLO(str(folder / 'run/weights/last.pt')).model.float().eval()
    attn = [m for m in last.modules() if isinstance(m, SCSA)]
    assert len(attn) == 4
    assert all(m.norm_h.bias.any() and m.norm.bias.any() for m in attn), 'zeros at the start'
    labels = sorted((folder / 'scenes/yolo/labels/train').iterdir())
    assert len(labels) == 16 and len(labels[0].read_text().split()) % 5 == 0


@pytest.mark.long
@pytest.mark.parametrize('dynamic', [False, True])
def test_the_exported_onnx_computes_the_same(trained, dynamic):
    onnxruntime = pytest.importorskip('onnxruntime')
    model = ultralytics.YOLO(str(trained[1] / 'run/weights/last.pt'))
    lively(model.model.float())
    expected_of = copy.deepcopy(model.model)
    path = model.export(format='onnx', imgsz=96, dynamic=dynamic, simplify=True)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for height, width in [(96, 96), *([(160, 64), (32, 224)] if dynamic else [])]:
        x = torch.rand(1, 3, height, width)
        with torch.no_grad():
            expected = expected_of(x)[0]
        (found,) = session.run(None, {'images': x.numpy()})
        assert distance(torch.from_numpy(found), expected) < 1e-4

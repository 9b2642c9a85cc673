"""Class activation maps: where they must peak, and the tool end to end."""

import json

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from tools_helpers import refusal
from torch import nn

pytest.importorskip('mmpretrain')
pytest.importorskip('pytorch_grad_cam', reason='pip install grad-cam')
from scsa.cli import UserError
from scsa.visualization import cam
from scsa.visualization.images import read_image
from scsa.visualization.layers import MapRecorder, stage_ends

TOOL = 'tools/visualization/cam.py'


class OnePatch(nn.Module):
    """A network whose score is the brightness of one cell of its map."""

    def __init__(self, row, column):
        super().__init__()
        self.cell = row, column
        self.features = nn.Conv2d(3, 4, 8, stride=8, bias=False)
        nn.init.constant_(self.features.weight, 1 / 64)

    def forward(self, x):
        return self.features(x)[:, :, self.cell[0], self.cell[1]].sum(1)


@pytest.mark.parametrize('method', ['gradcam', 'gradcam++', 'xgradcam', 'layercam'])
def test_it_peaks_in_the_one_patch_that_matters(method):
    """The image is bright in that patch, as the network that looks at it alone would have it."""
    model, x = OnePatch(2, 5), torch.zeros(1, 3, 64, 64)
    x[:, :, 16:24, 40:48] = 1
    heat = cam.activation_map(model, x, model.features, 'features', method)
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert heat.shape == (64, 64) and heat.max() == pytest.approx(1, abs=1e-5)
    assert 16 <= y < 24 and 40 <= x < 48


def test_layercam_follows_the_patch_and_not_the_brightness():
    """Everywhere is bright; only the gradient tells the cells apart."""
    model, x = OnePatch(1, 3), torch.ones(1, 3, 64, 64)
    heat = cam.activation_map(model, x, model.features, 'features', 'layercam')
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert 8 <= y < 16 and 24 <= x < 32


def test_swin_tokens_are_laid_out():
    """The peak lies where the one token is that matters, on a map of 2 × 5."""
    from mmengine.registry import MODELS

    torch.manual_seed(0)
    backbone = MODELS.build(
        dict(type='mmpretrain.SwinTransformer', arch='tiny', img_size=64, pad_small_map=True)
    )

    layer = stage_ends(backbone)[-1]

    class Score(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = backbone

        def forward(self, x):
            with MapRecorder(backbone, [layer]) as maps:
                backbone(x)
            return maps[layer][:, :, 1, 4].relu().sum(1)

    found = backbone.get_submodule(layer)
    heat = cam.activation_map(Score(), torch.randn(1, 3, 64, 160), found, layer, 'layercam')
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert heat.shape == (64, 160) and y >= 32 and x >= 128


def test_a_layer_that_the_score_does_not_see():
    model = OnePatch(0, 0)
    model.idle = nn.Conv2d(3, 3, 1)
    with pytest.raises(UserError, match=r"does not depend on one map of layer 'idle'"):
        cam.activation_map(model, torch.zeros(1, 3, 64, 64), model.idle, 'idle')


def test_a_frozen_model_is_explained_too(loaded, images):
    model = loaded('classification')
    image = read_image(images / 'grey.png')
    expected = cam.explain(model, image)
    try:
        model.model.requires_grad_(False)
        found = cam.explain(model, image)
    finally:
        model.model.requires_grad_(True)
    np.testing.assert_array_equal(found.heat, expected.heat)
    assert all(parameter.grad is None for parameter in model.model.parameters())


def test_a_class_by_name_and_number(loaded, images):
    model, image = loaded('segmentation'), read_image(images / 'grey.png')
    assert cam.find_class(model, '3') == 4  # '3' is a name there, after the background
    assert cam.find_class(model, 'background') == 0
    with pytest.raises(UserError, match=r"no class 'cat'; give a number from 0 to 10, or a name"):
        cam.explain(model, image, category='cat')
    found = cam.explain(loaded('classification'), image, category='7')
    assert (found.label, found.name) == (7, '7') and found.score < 1


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_what_is_asked_of_a_box_and_of_a_mask(task, loaded, images):
    model, image = loaded(task), read_image(images / 'colour.jpg')
    found = cam.explain(model, image)
    assert found.heat.shape == found.picture.shape[:2] and 0 < found.score < 1
    inputs, samples = model.prepare(image)
    with torch.no_grad():
        if task == 'detection':
            boxes = model.model.predict(inputs, samples, rescale=False)[0].pred_instances
            best = int(boxes.scores.argmax())
            np.testing.assert_allclose(found.region, boxes.bboxes[best].numpy(), rtol=1e-4)
            assert found.score == pytest.approx(float(boxes.scores[best]), rel=1e-4)
            assert found.label == int(boxes.labels[best])
        else:
            labels = model.model(inputs, samples, mode='tensor')[0].argmax(0)
            share = [float((labels == label).float().mean()) for label in range(11)]
            assert found.label == 1 + int(np.argmax(share[1:]))  # not the background
            assert found.region.mean() == pytest.approx(share[found.label], abs=1e-6)


def test_a_class_that_is_not_found(loaded, images):
    model, image = loaded('segmentation'), read_image(images / 'colour.jpg')
    inputs, samples = model.prepare(image)
    with torch.no_grad():
        present = model.model(inputs, samples, mode='tensor')[0].argmax(0).unique().tolist()
    absent = next(label for label in range(11) if label not in present)
    with pytest.raises(cam.NothingFound):
        cam.explain(model, image, category=model.class_name(absent))


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation'])
def test_the_tool(task, spec, images, tmp_path, in_process, capsys):
    source = images / 'grey.png' if task == 'classification' else images
    in_process(
        TOOL, source, '--model', spec(task, 'a'), '--model', spec(task, 'b'),
        '--out-dir', tmp_path, '--device', 'cpu', '--format', 'svg', 'png',
    )  # fmt: skip
    rows = json.loads((tmp_path / 'cam.json').read_text())
    heats = np.load(tmp_path / 'cam_001.npz')
    count = 1 if task == 'classification' else 3
    assert len(rows) == len(heats) == 2 * count
    for one in rows:
        heat = heats[f'{one["image"]}/{one["model"]}']
        assert list(heat.shape) == one['size'] and one['layer'] == 'backbone.layer4.1'
        assert heat[tuple(one['peak'])] == heat.max()
    np.testing.assert_array_equal(*(heats[f'{rows[0]["image"]}/{name}'] for name in 'ab'))
    assert imread(tmp_path / 'cam_001.png').std() > 0
    assert (tmp_path / 'cam_001.svg').stat().st_size > 1000
    assert f'{count} images' in capsys.readouterr().out


def test_refusals(spec, images, monkeypatch, capsys):
    def line(*arguments):
        model = ('--model', spec('classification'), '--device', 'cpu')
        return refusal(monkeypatch, capsys, TOOL, images / 'grey.png', *model, *arguments)

    assert "'layer4.1'; near it: backbone.layer4.1" in line('--layer', 'layer4.1')
    assert "no class 'cat'" in line('--class', 'cat')
    assert "'head.fc' gives no feature map" in line('--layer', 'head.fc')
    monkeypatch.setattr('scsa.cli.find_spec', lambda name: None)
    assert line() == 'error: grad-cam is not installed: pip install grad-cam'

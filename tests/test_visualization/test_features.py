"""Feature maps and t-SNE, and their tools end to end."""

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from tools_helpers import refusal

pytest.importorskip('mmpretrain')
from scsa.cli import UserError
from scsa.visualization import features, tsne
from scsa.visualization.images import Images, read_image, unique_stems
from scsa.visualization.layers import blocks

FEATURES, TSNE = 'tools/visualization/features.py', 'tools/visualization/tsne.py'
STAGES = [f'backbone.layer{i}.1' for i in (1, 2, 3, 4)]


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation'])
def test_maps_are_what_the_layers_gave(task, loaded, images):
    model = loaded(task)
    image = read_image(images / 'grey.png')
    layers = features.choose_layers([model])['SCSA']
    assert layers == STAGES
    maps = features.feature_maps(model, image, [*layers, 'backbone.conv1'])
    with torch.no_grad():
        backbone = model.model.backbone
        backbone.out_indices, before = (0, 1, 2, 3), backbone.out_indices
        expected = backbone(model.prepare(image)[0])
        backbone.out_indices = before
    for layer, one in zip(layers, expected):
        np.testing.assert_allclose(maps[layer], one[0].numpy(), atol=1e-6)
    assert maps['backbone.conv1'].shape[0] == 32


def test_layers_of_the_heads_run_too(loaded, images):
    image = read_image(images / 'grey.png')
    maps = features.feature_maps(loaded('segmentation'), image, ['decode_head.conv_seg'])
    assert maps['decode_head.conv_seg'].shape[0] == 11
    with pytest.raises(UserError, match='does not run in prediction'):
        features.feature_maps(loaded('segmentation'), image, ['decode_head.loss_decode'])


def test_models_of_other_depths(loaded):
    class Other:
        name, model = 'other', torch.nn.Sequential()
        model.stages = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.ReLU())] * 2)

    with pytest.raises(UserError, match='different numbers of stages; give --layer'):
        features.choose_layers([loaded('classification'), Other])
    assert features.choose_layers([Other], ['a', 'b']) == {'other': ['a', 'b']}
    assert blocks(loaded('classification').model)[:3] == [
        *('backbone.layer1.0', 'backbone.layer1.1', 'backbone.layer2.0')
    ]


def test_the_channels_that_vary_most():
    maps = (
        np.random.default_rng(0).normal(size=(6, 8, 8))
        * np.array([1, 5, 0, 3, 9, 2])[:, None, None]
    )
    assert list(features.most_varied(maps, 3)) == [1, 3, 4]
    assert list(features.most_varied(maps, 99)) == [0, 1, 2, 3, 4, 5]


def test_montage_lays_out_all_maps():
    maps = np.arange(5 * 4 * 6, dtype=float).reshape(5, 4, 6)
    sheet = features.montage(maps)
    assert sheet.shape == (4 + 1 + 4, 6 + 1 + 6 + 1 + 6)
    np.testing.assert_array_equal(sheet[5:, 7:13], maps[4])
    assert np.isnan(sheet[4]).all() and np.isfinite(sheet).sum() == maps.size


def test_models_share_the_scale_of_a_row():
    rng = np.random.default_rng(0)
    maps = {name: {'a': rng.normal(size=(4, 5, 5)) * k, 'b': rng.normal(size=(4, 3, 3))}
            for name, k in (('weak', 1), ('strong', 10))}  # fmt: skip
    figure = features.draw(np.zeros((8, 8, 3), np.uint8), maps, channels=2)
    shown = {}
    for axis in figure.axes:
        if axis.images and axis.get_title():
            shown[axis.get_title()] = axis.images[0].get_clim()
    assert shown['weak: mean'] == shown['strong: mean']
    assert shown['weak: 2 channels'] == shown['strong: 2 channels'] != shown['weak: mean']


def test_features_tool(spec, images, tmp_path, in_process, capsys):
    models = ['--model', spec('classification'), '--model', spec('classification', 'twin')]
    in_process(FEATURES, images / 'grey.png', *models, '--device', 'cpu', '--channels', 4,
               '--out-dir', tmp_path)  # fmt: skip
    assert '1 images, 0 skipped' in capsys.readouterr().out
    found = np.load(tmp_path / 'grey.npz')
    assert list(found) == [f'{name}/{layer}' for name in ('SCSA', 'twin') for layer in STAGES]
    np.testing.assert_array_equal(found[f'SCSA/{STAGES[3]}'], found[f'twin/{STAGES[3]}'])
    assert imread(tmp_path / 'grey.png').std() > 0.1


@pytest.mark.parametrize(
    ('task', 'layer'), [('detection', 'neck.fpn_convs.0'), ('segmentation', 'decode_head.conv_seg')]
)
def test_features_tool_on_detectors_and_segmenters(
    task, layer, spec, images, tmp_path, in_process, capsys
):
    in_process(FEATURES, images, '--model', spec(task), '--device', 'cpu', '--out-dir', tmp_path,
               '--layers', layer)  # fmt: skip
    assert '3 images, 1 skipped' in capsys.readouterr().out
    for name in ('colour', 'grey', 'with_alpha'):
        assert np.load(tmp_path / f'{name}.npz')[f'SCSA/{layer}'].shape[0] in (11, 64)
        assert imread(tmp_path / f'{name}.png').std() > 0.1


def test_images_of_one_name(tmp_path, images):
    paths = [tmp_path / name for name in ('a.jpg', 'a.png', 'b/a.png', 'c.png')]
    assert list(unique_stems(paths).values()) == ['a', 'a_', 'a__', 'c']


def test_shuffled_images_are_always_the_same(digits_folder):
    found = Images(digits_folder, 6, shuffled=True).paths
    assert found == Images(digits_folder, 6, shuffled=True).paths
    assert found != sorted(found) == Images(digits_folder, 6).paths


def test_tsne_keeps_classes_together():
    rng = np.random.default_rng(0)
    centres = 10 * rng.normal(size=(3, 20))
    labels = np.arange(60) % 3
    x = centres[labels] + rng.normal(size=(60, 20))
    points = tsne.embed(x)
    np.testing.assert_array_equal(points, tsne.embed(x))
    middles = np.stack([points[labels == i].mean(0) for i in range(3)])
    nearest = np.linalg.norm(points[:, None] - middles, axis=2).argmin(1)
    assert (nearest == labels).all()
    with pytest.raises(UserError, match='of 3 images shows nothing'):
        tsne.embed(np.zeros((3, 2)))


def test_tsne_tool(spec, digits_folder, tmp_path, in_process, capsys):
    model = ['--model', spec('classification'), '--model', spec('classification', 'twin')]
    in_process(TSNE, digits_folder, *model, '--device', 'cpu', '--per-class', 3,
               '--out-dir', tmp_path)  # fmt: skip
    assert '8 images, 0 skipped' in capsys.readouterr().out
    found = np.load(tmp_path / 'tsne.npz')
    assert list(found['labels']) == ['3'] * 3 + ['7'] * 3 + ['8'] * 2
    assert found['SCSA/features'].shape == (8, 256) and found['SCSA/points'].shape == (8, 2)
    np.testing.assert_array_equal(found['SCSA/points'], found['twin/points'])
    assert imread(tmp_path / 'tsne.png').std() > 0.02


def test_what_is_wrong_is_one_line(spec, images, digits_folder, monkeypatch, capsys):
    model = ['--model', spec('classification'), '--device', 'cpu']

    def line(*arguments):
        return refusal(monkeypatch, capsys, *arguments)

    assert 'none of 1 images could be read' in line(FEATURES, images / 'broken.png', *model)
    grey = images / 'grey.png'
    assert "no layer is called 'layer4.2'; near it: " in line(
        FEATURES, grey, *model, '--layer', 'layer4.2'
    )
    assert 'gives no feature map but (1, 256)' in line(FEATURES, grey, *model, '--layer', 'neck')
    assert '--channels -1: give 0' in line(FEATURES, grey, *model, '--channels', '-1')
    config = spec('classification').split(',')[0]
    assert 'names no checkpoint; give --model' in line(FEATURES, grey, '--model', config)
    assert 'must be a folder with a folder of images for each class' in line(TSNE, images, *model)
    monkeypatch.setattr('scsa.cli.find_spec', lambda name: None)
    assert 'scikit-learn is not installed: pip install scikit-learn' in line(
        TSNE, digits_folder, *model
    )

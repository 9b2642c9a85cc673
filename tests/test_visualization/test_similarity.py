"""CKA and SSIM by what they must give, and tools/visualization/similarity.py end to end."""

import json
from itertools import permutations

import numpy as np
import pytest
from tools_helpers import refusal

pytest.importorskip('mmpretrain')
from scsa.cli import UserError
from scsa.visualization.similarity import cka, gram, hsic, ssim, ssim_with_image

TOOL = 'tools/visualization/similarity.py'


def features(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def pair(x, y):
    """CKA of two layers; with itself each must be 1."""
    found, names = cka([dict(x=x, y=y)])
    assert names == ['x', 'y']
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-12)
    assert found[0, 1] == found[1, 0]
    return found[0, 1]


def test_alike_up_to_a_rotation_a_shift_and_a_scale():
    x = features(40, 30)
    rotation, _ = np.linalg.qr(features(30, 30, seed=1))
    assert pair(x, x) == pytest.approx(1, abs=1e-12)
    assert pair(x, x @ rotation) == pytest.approx(1, abs=1e-9)
    assert pair(x, 3 * x @ rotation + 100 * features(30, seed=2)) == pytest.approx(1, abs=1e-9)
    assert pair(x, x * np.linspace(0, 3, 30)) < 0.95  # no rotation


def test_independent_noise_is_around_0():
    """More values than images: the biased estimate is near 1 then."""
    found = [pair(features(100, 500, seed=i), features(100, 500, seed=50 + i)) for i in range(10)]
    assert np.abs(found).max() < 0.05 and min(found) < 0 < max(found)
    x, y = (gram(features(100, 500, seed=i)) for i in (0, 50))
    assert (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()) > 0.7


def test_hsic_is_the_mean_over_all_quadruples():
    k, other = (x @ x.T for x in (features(7, 3), features(7, 5, seed=1)))
    four = [
        k[a, b] * (other[a, b] + other[c, d] - 2 * other[a, c])
        for a, b, c, d in permutations(range(7), 4)
    ]
    assert hsic(k, other) == pytest.approx(np.mean(four), rel=1e-9)


def test_batches_count_together():
    x, y = features(40, 60), features(40, 60) + 0.5 * features(40, 60, seed=3)
    parts = [slice(0, 15), slice(15, 40)]
    (found, _) = cka(dict(x=x[part], y=y[part]) for part in parts)
    top, left, right = (
        sum(hsic(gram(a[part]), gram(b[part])) for part in parts)
        for a, b in ((x, y), (x, x), (y, y))
    )
    assert found[0, 1] == pytest.approx(top / np.sqrt(left * right))
    assert found[0, 1] == pytest.approx(pair(x, y), abs=0.05)


def test_maps_count_as_all_their_values():
    x = features(10, 4, 3, 5)
    assert pair(x, x.reshape(10, -1)) == pytest.approx(1, abs=1e-12)
    assert gram(x.astype(np.float32)).dtype == np.float64


def test_a_dead_layer_and_too_few_images():
    found, _ = cka([dict(x=features(8, 3), dead=np.ones((8, 3)))])
    assert found[0, 0] == 1 and np.isnan(found[0, 1]) and np.isnan(found[1, 1])
    for batches in ([], [dict(x=features(3, 5))]):
        with pytest.raises(UserError, match='batches of at least 4 images'):
            cka(batches)


def test_ssim_is_that_of_scikit_image():
    metrics = pytest.importorskip('skimage.metrics')
    maps = features(5, 14, 11).astype(np.float32)
    maps[1] = maps[0] + 0.1 * maps[1]
    found = ssim(maps)
    span = float(maps.max() - maps.min())
    for i, j in np.ndindex(5, 5):
        expected = metrics.structural_similarity(
            maps[i].astype(float), maps[j].astype(float), data_range=span
        )
        assert found[i, j] == pytest.approx(expected, abs=1e-9)
    assert found[0, 1] > 0.8 > abs(found[0, 2])


def test_ssim_of_small_maps():
    metrics = pytest.importorskip('skimage.metrics')
    maps = features(2, 6, 8)
    expected = metrics.structural_similarity(*maps, win_size=5, data_range=np.ptp(maps))
    assert ssim(maps)[0, 1] == pytest.approx(expected)
    assert ssim(np.zeros((2, 3, 3)))[0, 1] == 1
    with pytest.raises(UserError, match=r'at least 3 × 3 pixels, not 2 × 9'):
        ssim(np.zeros((2, 2, 9)))


def test_ssim_with_the_image_knows_its_pattern():
    pytest.importorskip('skimage')
    grey = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(float)
    picture = np.repeat(grey.repeat(4, 0).repeat(4, 1)[..., None], 3, 2).astype(np.uint8)
    alike, other, opposed = ssim_with_image(
        picture, np.stack([5 * grey - 1000, features(8, 8), -grey])
    )
    assert alike > 0.9 and abs(other) < 0.5 and opposed < -0.5


def test_cka_tool(spec, digits_folder, tmp_path, in_process, capsys):
    models = ['--model', spec('classification'), '--model', spec('classification', 'twin')]
    layers = ['--layers', 'backbone.layer1.0', 'backbone.layer3.1']
    in_process(TOOL, 'cka', digits_folder, *models, '--device', 'cpu', *layers, '--batch', 5,
               '--out-dir', tmp_path)  # fmt: skip
    assert capsys.readouterr().out.splitlines()[-1] == '10 images, 0 skipped'
    found = json.loads((tmp_path / 'cka.json').read_text())
    names = [f'{name}: layer{layer}' for name in ('SCSA', 'twin') for layer in ('1.0', '3.1')]
    assert found['layers'] == names
    matrix = np.array(found['cka'])
    np.testing.assert_allclose(matrix[:2, 2:], matrix[:2, :2], atol=1e-6)  # the same weights
    assert matrix[0, 0] == pytest.approx(1) and matrix[0, 1] < 0.999
    assert (tmp_path / 'cka.png').stat().st_size > 5000


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_all_blocks_are_compared(task, spec, digits_folder, tmp_path, in_process):
    in_process(TOOL, 'cka', digits_folder, '--model', spec(task), '--device',
               'cpu', '--images', 4, '--pool', '--out-dir', tmp_path)  # fmt: skip
    found = json.loads((tmp_path / 'cka.json').read_text())
    assert found['layers'] == [f'SCSA: layer{i}.{j}' for i in (1, 2, 3, 4) for j in (0, 1)]


def test_ssim_tool(spec, digits_folder, tmp_path, in_process):
    pytest.importorskip('skimage')
    in_process(TOOL, 'ssim', digits_folder / '3', '--model', spec('classification'), '--device',
               'cpu', '--channels', 6, '--out-dir', tmp_path, '--format', 'png', 'svg')  # fmt: skip
    (found,) = json.loads((tmp_path / 'ssim.json').read_text()).values()
    assert np.shape(found['pairs']) == (6, 6) and np.shape(found['with_image']) == (6,)
    assert {path.name for path in tmp_path.iterdir()} == {'ssim.json', 'ssim.png', 'ssim.svg'}


def test_what_cannot_be_compared_is_one_line(spec, images, digits_folder, monkeypatch, capsys):
    model = ['--model', spec('classification'), '--device', 'cpu']

    def line(*arguments):
        return refusal(monkeypatch, capsys, TOOL, *arguments, *model)

    assert 'batches of at least 4 images' in line('cka', digits_folder / '8')
    assert "no layer is called 'layer9'; near it: " in line(
        'cka', digits_folder / '3', '--layer', 'layer9'
    )
    pytest.importorskip('skimage')
    small = line('ssim', digits_folder / '3', '--layer', 'backbone.layer4.1')
    assert 'SSIM needs maps of at least 3 × 3 pixels, not 2 × 2' in small
    assert 'none of 1 images could be read' in line('ssim', images / 'broken.png')
    assert 'maps of another size than the images before it' in line('cka', images)

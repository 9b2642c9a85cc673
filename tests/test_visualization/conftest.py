"""Quick-start models of the three tasks with weights of a seed, and images for them."""

import runpy
import sys

import numpy as np
import pytest
from PIL import Image
from tools_helpers import ROOT, save_checkpoint

CONFIGS = {
    'classification': 'configs/quickstart/resnet18_digits_scsa.py',
    'detection': 'configs/quickstart/faster-rcnn_r18_scenes_scsa.py',
    'segmentation': 'configs/quickstart/fpn_r18_scenes_scsa.py',
}
DIGITS = [str(digit) for digit in range(10)]
CLASSES = {**dict.fromkeys(CONFIGS, DIGITS), 'segmentation': ['background', *DIGITS]}


@pytest.fixture(scope='session')
def spec(tmp_path_factory):
    """Gives NAME=CONFIG,CHECKPOINT of the quick start of a task."""
    pytest.importorskip('mmpretrain')
    folder = tmp_path_factory.mktemp('checkpoints')

    def of(task, name='SCSA'):
        if task != 'classification':
            pytest.importorskip('mmcv.ops', reason='mmdet and mmseg need its compiled operators')
        path = folder / f'{task}.pth'
        if not path.exists():
            save_checkpoint(CONFIGS[task], path, CLASSES[task])
        return f'{name}={ROOT / CONFIGS[task]},{path}'

    return of


@pytest.fixture(scope='session')
def loaded(spec):
    """Gives the loaded model of a task, on the CPU."""
    from scsa.visualization.models import load_models

    models = {}

    def of(task):
        if task not in models:
            (models[task],) = load_models([spec(task)], 'cpu')
        return models[task]

    return of


@pytest.fixture(scope='session')
def images(tmp_path_factory):
    """A folder: a colour JPEG, a grey PNG, an image with alpha, a broken one, and no image."""
    folder = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (56, 56, 4), np.uint8)
    Image.fromarray(pixels[..., :3]).resize((96, 64)).save(folder / 'colour.jpg')
    Image.fromarray(pixels[..., 0]).save(folder / 'grey.png')
    Image.fromarray(pixels, 'RGBA').resize((40, 80)).save(folder / 'with_alpha.webp')
    (folder / 'broken.png').write_bytes((folder / 'grey.png').read_bytes()[:200])
    (folder / 'notes.txt').write_text('no image')
    return folder


@pytest.fixture
def in_process(monkeypatch):
    """Runs a tool with its arguments in this process: OpenMMLab is imported already."""

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', [str(argument) for argument in arguments])
        runpy.run_path(str(ROOT / arguments[0]), run_name='__main__')

    return call


@pytest.fixture(scope='session')
def digits_folder(tmp_path_factory):
    """A folder for each of three classes of digits, with four, four and two images."""
    from sklearn.datasets import load_digits

    folder, digits = tmp_path_factory.mktemp('digits'), load_digits()
    for name, count in ((3, 4), (7, 4), (8, 2)):
        (folder / str(name)).mkdir()
        for i, scan in enumerate(digits.images[digits.target == name][:count]):
            image = Image.fromarray((scan * 15).astype(np.uint8)).resize((56, 56))
            image.save(folder / str(name) / f'{i}.png')
    return folder

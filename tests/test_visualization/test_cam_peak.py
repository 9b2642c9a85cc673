"""On digits that lie anywhere on a larger canvas, the class activation map peaks in the digit."""

import numpy as np
import pytest
from PIL import Image
from tools_helpers import CONFIG, run_tool

pytest.importorskip('mmpretrain')
pytest.importorskip('pytorch_grad_cam', reason='pip install grad-cam')
from scsa.datasets.digits import write_digits
from scsa.visualization import cam
from scsa.visualization.images import read_image
from scsa.visualization.models import load

DIGIT, CANVAS = 56, 168  # pixels: that of the quick start on a ninth of the canvas
LEAST_OFF = 8  # pixels from the middle of the canvas to that of the digit, up or aside
SMALL = ['model.backbone.stem_channels=16', 'model.backbone.base_channels=16',
         'model.head.in_channels=128']  # fmt: skip


def corner(number):
    """The upper left corner of a digit, anywhere but in the middle."""
    rng = np.random.default_rng([0, number])
    while True:
        place = rng.integers(0, CANVAS - DIGIT + 1, 2)
        if abs(place - (CANVAS - DIGIT) / 2).max() >= LEAST_OFF:
            return place


def train(data, work_dir, *options):
    """Train the quick start, with a quarter of its work; gives the last checkpoint."""
    roots = [f'{part}_dataloader.dataset.data_root={data}' for part in ('train', 'val', 'test')]
    run_tool('tools/train.py', CONFIG, '--work-dir', work_dir, '--cfg-options', *roots, *SMALL,
             *options)  # fmt: skip
    return (work_dir / 'last_checkpoint').read_text()


@pytest.mark.slow
@pytest.mark.alone
def test_the_peak_lies_in_the_digit(tmp_path):
    write_digits(tmp_path / 'digits', DIGIT)
    boxes = {}
    for scan in sorted((tmp_path / 'digits').glob('*/*/*.png')):
        top, left = corner(int(scan.stem))
        canvas = np.zeros((CANVAS, CANVAS), np.uint8)
        canvas[top : top + DIGIT, left : left + DIGIT] = Image.open(scan)
        path = tmp_path / 'canvases' / scan.relative_to(tmp_path / 'digits')
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(canvas).save(path)
        if path.parts[-3] == 'val':
            boxes[path] = top, left
    assert len(boxes) == 360

    # From canvases alone it learns nothing in the first epochs: most of their mean is paper.
    scratch = train(tmp_path / 'digits', tmp_path / 'small')
    checkpoint = train(
        tmp_path / 'canvases', tmp_path / 'large', f'load_from={scratch}',
        f'train_dataloader.dataset.pipeline.1.crop_size={CANVAS}',
        'train_cfg.max_epochs=4', 'param_scheduler.total_steps=4', 'param_scheduler.eta_max=0.05',
    )  # fmt: skip
    (config,) = (tmp_path / 'large').glob('*.py')
    model = load('SCSA', str(config), checkpoint, 'cpu')
    right, inside = [], []
    for path, (top, left) in boxes.items():
        found = cam.explain(model, read_image(path))
        y, x = np.unravel_index(found.heat.argmax(), found.heat.shape)
        right.append(found.name == path.parent.name)
        inside.append(top <= y < top + DIGIT and left <= x < left + DIGIT)
    print(f'{np.mean(right):.1%} right, the peak in the digit on {np.mean(inside):.1%}')
    assert np.mean(right) >= 0.9
    assert np.mean(inside) >= 0.8

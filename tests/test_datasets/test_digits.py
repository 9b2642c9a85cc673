"""The digits made hard: who is in them, and that a seed fixes every picture."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_helpers import run_tool
from PIL import Image

pytest.importorskip('sklearn')
from scsa.datasets.digits import hard_picture, split_digits, write_hard_digits


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*.png')}


@pytest.fixture(scope='module')
def hard(tmp_path_factory):
    out = tmp_path_factory.mktemp('hard')
    assert write_hard_digits(out, 56) == dict(train=400, val=1080)
    return out


def test_few_have_labels_and_the_parts_share_no_digit(hard):
    assert [len([*(hard / f'train/{n}').iterdir()]) for n in range(10)] == [40] * 10
    numbers = {p: {f.stem[:4] for f in (hard / p).rglob('*.png')} for p in ('train', 'val')}
    assert len(numbers['train']) == 400 and len(numbers['val']) == 360
    assert not numbers['train'] & numbers['val']


def test_same_seed_same_bytes(hard, tmp_path):
    write_hard_digits(tmp_path / 'again', 56, seed=0)
    assert files(hard) == files(tmp_path / 'again')
    assert len(set(files(hard).values())) == 1480
    write_hard_digits(tmp_path / 'other', 56, seed=1)
    assert not set(files(hard).values()) & set(files(tmp_path / 'other').values())


def test_the_digit_moves_and_changes_its_size():
    _, images, _ = split_digits()['val']
    black = np.zeros_like(images)  # no clutter: what is bright is the digit
    spans, corners = set(), set()
    for seed in range(60):
        picture = hard_picture(np.random.default_rng(seed), images[0], black, 56)
        assert picture.shape == (56, 56) and picture.dtype == np.uint8
        ink = np.argwhere(picture > 130)
        spans.add(int(np.ptp(ink[:, 0])))
        corners.add((ink.min(0) // 8).tobytes())
    assert min(spans) < 18 and max(spans) > 30 and len(corners) > 8


def test_tool(tmp_path):
    done = run_tool('digits', '--hard', '--seed', 3, '--out', tmp_path / 'd', '--size', 32)
    assert done.returncode == 0, done.stderr
    assert '400 images in train, 1080 in val' in done.stdout
    assert Image.open(next((tmp_path / 'd').rglob('*.png'))).size == (32, 32)
    assert 'with --hard give 32 or more' in run_tool('digits', '--hard', '--size', 31).stderr
    assert 'add --hard or leave it out' in run_tool('digits', '--seed', 1).stderr

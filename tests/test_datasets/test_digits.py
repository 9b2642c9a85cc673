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
    assert write_hard_digits(out, 56) == dict(train=600, val=1080)
    return out


def test_few_have_labels_and_the_parts_share_no_digit(hard):
    assert [len([*(hard / f'train/{n}').iterdir()]) for n in range(10)] == [60] * 10
    numbers = {p: {f.stem[:4] for f in (hard / p).rglob('*.png')} for p in ('train', 'val')}
    assert len(numbers['train']) == 600 and len(numbers['val']) == 360
    assert not numbers['train'] & numbers['val']


def test_same_seed_same_bytes(hard, tmp_path):
    write_hard_digits(tmp_path / 'again', 56, seed=0)
    assert files(hard) == files(tmp_path / 'again')
    assert len(set(files(hard).values())) == 1680
    write_hard_digits(tmp_path / 'other', 56, seed=1)
    assert not set(files(hard).values()) & set(files(tmp_path / 'other').values())


def pictures(digit, others, seeds=40):
    """One digit in pictures of several seeds."""
    return [hard_picture(np.random.default_rng(seed), digit, others, 56) for seed in range(seeds)]


@pytest.fixture(scope='module')
def parts():
    """A digit, the digits whose pieces may lie about, and nothing in their place."""
    _, images, _ = split_digits()['val']
    return images[0], images, np.zeros_like(images)


def test_the_digit_moves_and_changes_its_size(parts):
    digit, _, nothing = parts
    spans, corners = set(), set()
    for picture in pictures(digit, nothing, 60):
        assert picture.shape == (56, 56) and picture.dtype == np.uint8
        ink = np.argwhere(picture > 130)
        spans.add(int(np.ptp(ink[:, 0])))
        corners.add((ink.min(0) // 8).tobytes())
    assert min(spans) < 25 and max(spans) > 38 and len(corners) > 8


def test_noise_lies_on_everything(parts):
    _, _, nothing = parts
    for picture in pictures(nothing[0], nothing):
        above = picture[picture > 0].astype(float)  # what the noise makes darker stays at 0
        assert 0.4 < above.size / picture.size < 0.6
        assert 15 < np.sqrt(np.mean(above**2)) < 25


def test_a_bar_hides_a_part_across_or_along(parts):
    _, _, nothing = parts
    hidden = [0, 0]
    for picture in pictures(np.full((8, 8), 16), nothing):
        ink = picture > 100
        top, left = np.argwhere(ink).min(0)
        bottom, right = np.argwhere(ink).max(0) + 1
        square = ink[top:bottom, left:right]
        for axis in (0, 1):
            empty = (~square.any(1 - axis)).mean()
            assert empty < 0.25
            hidden[axis] += empty > 0.1
    assert min(hidden) >= 10 and sum(hidden) >= 30  # at an edge it does not show


def test_pieces_of_other_digits_lie_about(parts):
    digit, others, nothing = parts
    for with_them, without in zip(pictures(digit, others), pictures(digit, nothing)):
        added = with_them.astype(int) - without  # both have the same noise
        assert added.min() >= 0  # the digit lies above them
        assert 0.01 < (added > 20).mean() < 0.5 and added.max() > 50


def test_tool(tmp_path):
    done = run_tool('digits', '--hard', '--seed', 3, '--out', tmp_path / 'd', '--size', 32)
    assert done.returncode == 0, done.stderr
    assert '600 images in train, 1080 in val' in done.stdout
    assert Image.open(next((tmp_path / 'd').rglob('*.png'))).size == (32, 32)
    assert 'with --hard give 32 or more' in run_tool('digits', '--hard', '--size', 31).stderr
    assert 'add --hard or leave it out' in run_tool('digits', '--seed', 1).stderr

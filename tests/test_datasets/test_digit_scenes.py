"""The embedded data set: both forms tell the same story, and the splits share nothing."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_helpers import run_tool
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from scsa.cli import UserError
from scsa.datasets import digit_scenes
from scsa.datasets.digit_scenes import CLASSES, OTHER, SEGMENTATION_CLASSES, segmentation, write

COUNTS = {'train': 12, 'val': 4}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp('scenes') / 'digit_scenes'
    write(out, COUNTS, size=160, seed=0)
    return out


def scenes(root, split='train'):
    """Yields picture, masks, annotations and label map of every scene."""
    coco = COCO(root / f'annotations/instances_{split}.json')
    assert [category['name'] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    ade = digit_scenes.ADE_NAMES[split]
    for image in coco.loadImgs(coco.getImgIds()):
        annotations = coco.loadAnns(coco.getAnnIds(image['id']))
        masks = [coco.annToMask(annotation).astype(bool) for annotation in annotations]
        picture = Image.open(root / split / image['file_name'])
        copy = root / 'ade/images' / ade / image['file_name']
        assert copy.read_bytes() == (root / split / image['file_name']).read_bytes()
        labels = Image.open(
            root / 'ade/annotations' / ade / image['file_name'].replace('jpg', 'png')
        )
        yield np.asarray(picture), masks, annotations, np.asarray(labels)


@pytest.mark.parametrize('split', COUNTS)
def test_boxes_masks_and_labels_agree(root, split):
    number = 0
    for picture, masks, entries, labels in scenes(root, split):
        number += 1
        assert picture.shape == (160, 160, 3)
        assert labels.shape == (160, 160)
        assert 1 <= len(masks) <= 6
        assert np.stack(masks).sum(0).max() == 1  # visible parts only
        expected = np.ones_like(labels)
        for mask, annotation in zip(masks, entries):
            x, y, w, h = annotation['bbox']
            assert annotation['area'] == mask.sum()
            inside = mask[y : y + h, x : x + w]
            assert inside.sum() == mask.sum()
            assert inside.any(0)[[0, -1]].all()
            assert inside.any(1)[[0, -1]].all()
            digit = CLASSES[annotation['category_id'] - 1]
            expected[mask] = SEGMENTATION_CLASSES.index(digit) + 1
        claimed = labels != OTHER
        assert np.array_equal(labels[claimed], expected[claimed])
        assert 0 < (~claimed).mean() < 0.1
    assert number == COUNTS[split]


def test_there_are_occlusions_and_both_kinds_of_masks(root):
    masks = [a['segmentation'] for _, _, entries, _ in scenes(root) for a in entries]
    assert {type(mask) for mask in masks} == {list, dict}
    material, hidden = digit_scenes.sources('train'), []
    for number in range(40):
        hidden += digit_scenes.compose(np.random.default_rng(number), *material, 160).hidden
    assert 0 < np.count_nonzero(hidden) < len(hidden) / 2
    assert 0.2 < max(hidden) <= 1 - digit_scenes.LEAST_VISIBLE


def test_digits_stand_out():
    """Against white, black and grey alike, in lightness as the eye weighs the colours."""
    for under in (0, 90, 128, 255):
        pixels = np.full((5, 3), under, np.float32)
        colours = [digit_scenes.tint(np.random.default_rng(i), pixels) for i in range(50)]
        lightness = np.array(colours) @ [0.299, 0.587, 0.114]
        assert np.abs(lightness - under).min() > 70


SHAPES = {
    'block': ['....', '.##.', '.##.', '....'],
    'pixel': ['....', '.#..', '....', '....'],
    'line': ['....', '####', '....', '....'],
    'hole': ['####', '#..#', '#..#', '####'],
    'pieces': ['##..', '##..', '...#', '...#'],
    'corner': ['##..', '##..', '..##', '..##'],
    'full': ['####', '####', '####', '####'],
}


@pytest.mark.parametrize('shape', SHAPES)
def test_segmentation_is_exact(shape):
    """A polygon where there is one outline, run lengths for holes and pieces; never a pixel off."""
    mask = np.array([[c == '#' for c in row] for row in SHAPES[shape]])
    encoded = segmentation(mask)
    if shape in ('hole', 'pieces'):
        assert isinstance(encoded, dict)
    else:
        assert isinstance(encoded, list)
    runs = rle.frPyObjects(encoded, 4, 4)[0] if isinstance(encoded, list) else encoded
    assert np.array_equal(rle.decode(runs), mask)


def test_polygon_is_centred_on_its_pixels():
    mask = np.zeros((4, 4), bool)
    mask[1:3, 1] = True  # the pixels that cover x from 1 to 2, y from 1 to 3
    (polygon,) = segmentation(mask)
    assert np.reshape(polygon, (-1, 2)).mean(0).tolist() == [1.5, 2]


def test_splits_share_nothing():
    (train, _, train_photos), (val, _, val_photos) = map(digit_scenes.sources, ('train', 'val'))
    assert (len(train), len(val)) == (1437, 360)
    assert not {digit.tobytes() for digit in train} & {digit.tobytes() for digit in val}
    for left, right in zip(train_photos, val_photos):
        assert left.shape[1] + right.shape[1] == 640


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob('*') if path.is_file()}


def test_same_seed_same_bytes(root, tmp_path):
    """And a longer run begins with the same scenes; another seed has none of them."""
    write(tmp_path / 'again', COUNTS, size=160, seed=0)
    assert files(root) == files(tmp_path / 'again')
    assert len(set(files(root / 'train').values()) | set(files(root / 'val').values())) == 16
    write(tmp_path / 'longer', {'train': 13, 'val': 5}, size=160, seed=0)
    longer, pictures = files(tmp_path / 'longer'), files(root / 'train')
    assert all(longer['train' / name] == content for name, content in pictures.items())
    write(tmp_path / 'other', COUNTS, size=160, seed=1)
    assert not set(files(tmp_path / 'other' / 'train').values()) & set(pictures.values())


def test_refuses_a_folder_in_use_and_small_scenes(root, tmp_path):
    with pytest.raises(UserError, match='not empty; delete it or choose another --out'):
        write(root, COUNTS, size=160, seed=0)
    with pytest.raises(UserError, match='set 128 or more'):
        write(tmp_path, COUNTS, size=127, seed=0)


def test_tool(tmp_path):
    done = run_tool('digit_scenes', '--out', tmp_path / 'd', '--train', 2, '--val', 1)
    assert done.returncode == 0, done.stderr
    assert 'train: 2 scenes' in done.stdout
    again = run_tool('digit_scenes', '--out', tmp_path / 'd')
    assert (again.returncode, again.stderr.count('\n')) == (2, 1)

"""Scenes of handwritten digits on photographs, for detection and for segmentation.

Real data without a download: scikit-learn ships 1797 digits (8 x 8 grey) and two photographs. A
scene is a crop of a photograph with a few digits pasted on it, tinted, 16 to 64 pixels high, the
later ones over the earlier ones. Training and validation share neither digits nor pixels of the
photographs. Every scene has a random generator of its own, so that the n-th scene of a split does
not depend on how many others are made.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as rle
from sklearn.datasets import load_sample_images
from tqdm import tqdm

from scsa.cli import UserError
from scsa.datasets.coco_writer import write_coco
from scsa.datasets.digits import split_digits

CLASSES = tuple('0123456789')
SEGMENTATION_CLASSES = ('background', *CLASSES)  # label map values 1, 2, …
OTHER = 0  # ADE20K's value for what no class claims; mmseg's `reduce_zero_label` makes it 255

SMALLEST, LARGEST = 16, 64  # height of a digit, pixels
LEAST_VISIBLE = 0.5  # of a digit's ink, when all others are in place
TRIES = 20
# What the 427 x 640 photographs give to each split.
COLUMNS = {'train': slice(0, 440), 'val': slice(440, 640)}
ADE_NAMES = {'train': 'training', 'val': 'validation'}


class Scene(NamedTuple):
    """A picture (H, W, 3), the visible mask (H, W) and the value of each digit, a label map."""

    picture: np.ndarray
    masks: list
    digits: list
    hidden: list  # share of each digit that others cover
    labels: np.ndarray


def sources(split: str) -> tuple[np.ndarray, np.ndarray, list]:
    """Returns the digits (N, 8, 8) in 0 … 1, their values, and the photographs of a split."""
    _, images, values = split_digits()[split]
    photos = [photo[:, COLUMNS[split]] for photo in load_sample_images().images]
    return images / 16, values, photos


def background(rng: np.random.Generator, photos: list, size: int) -> np.ndarray:
    """Returns a square crop of a photograph, scaled to `size`, mirrored half of the time."""
    photo = photos[rng.integers(len(photos))]
    side = rng.integers(96, 193)
    top, left = (rng.integers(length - side + 1) for length in photo.shape[:2])
    crop = photo[top : top + side, left : left + side]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    interpolation = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(crop), (size, size), interpolation=interpolation)


def ink(digit: np.ndarray, height: int) -> np.ndarray:
    """Returns the opacity of a digit, with the grey of the scan made steeper."""
    # The scans touch their frame; without an empty pixel around it strokes would end cut off.
    padded = np.pad(digit.astype(np.float32), 1)
    side = round(height * len(padded) / len(digit))
    smooth = cv2.resize(padded, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip((smooth - 0.3) / 0.3, 0, 1)


def tint(rng: np.random.Generator, under: np.ndarray) -> np.ndarray:
    """Returns a random colour whose lightness differs from the pixels (N, 3) under the digit."""
    weights = np.array([0.299, 0.587, 0.114])
    while True:
        colour = rng.uniform(0, 255, 3)
        if abs((colour - under.mean(0)) @ weights) > 70:
            return colour


def compose(
    rng: np.random.Generator, images: np.ndarray, values: np.ndarray, photos: list, size: int
) -> Scene:
    """Pastes two to six digits; a place where one would hide another too much is not taken."""
    picture = background(rng, photos, size).astype(np.float32)
    labels = np.full((size, size), SEGMENTATION_CLASSES.index('background') + 1, np.uint8)
    whole, visible, digits = [], [], []
    wanted = rng.integers(2, 7)
    for _ in range(TRIES):
        if len(digits) == wanted:
            break
        chosen = rng.integers(len(images))
        stamp = ink(images[chosen], round(SMALLEST * (LARGEST / SMALLEST) ** rng.random()))
        top, left = rng.integers(size - len(stamp) + 1, size=2)
        opacity = np.zeros((size, size), np.float32)
        opacity[top : top + len(stamp), left : left + len(stamp)] = stamp
        mask = opacity >= 0.5
        remaining = [other & ~mask for other in visible]
        if any(r.sum() < LEAST_VISIBLE * w.sum() for r, w in zip(remaining, whole)):
            continue
        colour = tint(rng, picture[mask])
        picture += opacity[..., None] * (colour - picture)
        # Where the ink fades out, neither answer is wrong.
        labels[(opacity > 0) & ~mask] = OTHER
        labels[mask] = SEGMENTATION_CLASSES.index(CLASSES[values[chosen]]) + 1
        visible = [*remaining, mask]
        whole.append(mask)
        digits.append(int(values[chosen]))
    hidden = [1 - v.sum() / w.sum() for w, v in zip(whole, visible)]
    return Scene(picture.round().astype(np.uint8), visible, digits, hidden, labels)


def segmentation(mask: np.ndarray) -> list | dict:
    """Returns a polygon for a mask in one piece without holes, run lengths for any other."""
    # At twice the size a contour runs a quarter of a pixel inside the edge of the original
    # pixels and so rasterises to just these; at the original size it would lose half a pixel.
    doubled = mask.astype(np.uint8).repeat(2, 0).repeat(2, 1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if len(contours) == 1:
        return [((contours[0].reshape(-1) + 0.5) / 2).tolist()]
    encoded = rle.encode(np.asfortranarray(mask, np.uint8))
    return {'size': encoded['size'], 'counts': encoded['counts'].decode('ascii')}


def annotation(mask: np.ndarray, digit: int) -> dict:
    """Returns a COCO annotation without its ids."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    return {
        'category_id': digit + 1,
        'bbox': [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        'area': int(mask.sum()),
        'segmentation': segmentation(mask),
        'iscrowd': 0,
    }


def write(out: Path, counts: dict[str, int], size: int, seed: int) -> None:
    """Writes the scenes as a COCO and as an ADE20K data set.

    Args:
        out: A new folder. COCO: `{train,val}/`, `annotations/instances_{train,val}.json`;
            ADE20K: `ade/{images,annotations}/{training,validation}/`.
        counts: Number of scenes by split.
        size: Height and width of a scene.
        seed: Of all random choices.
    """
    if size < 2 * LARGEST:
        room = f'leaves no room for digits of {LARGEST} pixels'
        raise UserError(f'--size {size} {room}; set {2 * LARGEST} or more')
    # Files of an earlier, longer run would stay, and mmseg takes every file of a folder.
    if out.exists() and any(out.iterdir()):
        raise UserError(f'folder {out} is not empty; delete it or choose another --out')
    for split, count in counts.items():
        write_split(out, split, count, size, seed)


def write_split(out: Path, split: str, count: int, size: int, seed: int) -> None:
    """Writes one split in both forms and prints its summary."""
    coco, ade_images = out / split, out / 'ade/images' / ADE_NAMES[split]
    ade_labels = out / 'ade/annotations' / ADE_NAMES[split]
    for folder in (coco, ade_images, ade_labels):
        folder.mkdir(parents=True)
    material = sources(split)
    images, annotations, hidden = [], [], 0
    for number in tqdm(range(count), desc=f'digit scenes, {split}', unit='scene', disable=None):
        rng = np.random.default_rng([seed, list(COLUMNS).index(split), number])
        scene = compose(rng, *material, size)
        name = f'{number:05}'
        picture = Image.fromarray(scene.picture)
        picture.save(coco / f'{name}.jpg', quality=95)
        picture.save(ade_images / f'{name}.jpg', quality=95)
        Image.fromarray(scene.labels).save(ade_labels / f'{name}.png')
        image_id = number + 1
        images.append({'id': image_id, 'file_name': f'{name}.jpg', 'width': size, 'height': size})
        for mask, digit in zip(scene.masks, scene.digits):
            ids = {'id': len(annotations) + 1, 'image_id': image_id}
            annotations.append({**ids, **annotation(mask, digit)})
        hidden += np.count_nonzero(scene.hidden)
    write_coco(out / f'annotations/instances_{split}.json', images, annotations, CLASSES)
    polygons = sum(isinstance(entry['segmentation'], list) for entry in annotations)
    print(
        f'{split}: {count} scenes, {len(annotations)} digits ({hidden} partly hidden), '
        f'{polygons} polygons, {len(annotations) - polygons} run-length masks'
    )

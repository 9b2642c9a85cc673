"""scikit-learn's handwritten digits as an image folder: 1,797 real scans of 8 x 8 pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

TRAIN_AND_VAL = (1437, 360)


def split_digits() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The digits in a training and a validation part, the same on every machine.

    Returns:
        For ``'train'`` (1,437 digits) and ``'val'`` (360): their numbers in scikit-learn's set, the
        images (n, 8, 8) from 0, paper, to 16, ink, and the digits (n,), stratified.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    numbers = np.arange(len(digits.target))
    train, val = train_test_split(
        numbers, test_size=TRAIN_AND_VAL[1], stratify=digits.target, random_state=0
    )
    return {
        split: (np.sort(part), digits.images[np.sort(part)], digits.target[np.sort(part)])
        for split, part in (('train', train), ('val', val))
    }


def write_digits(out: Path, size: int) -> dict[str, int]:
    """Write ``out/{train,val}/DIGIT/NUMBER.png``, the layout of ImageNet.

    Args:
        out: Folder to write to.
        size: Side of the written images in pixels; the scans are enlarged smoothly.

    Returns:
        The number of images in each part.
    """
    for split, (numbers, images, targets) in split_digits().items():
        for number, image, target in zip(numbers, images, targets):
            folder = out / split / str(target)
            folder.mkdir(parents=True, exist_ok=True)
            scan = Image.fromarray((image * (255 / 16)).round().astype(np.uint8))
            scan.resize((size, size), Image.BICUBIC).save(folder / f'{number:04d}.png')
    return {split: len(list((out / split).glob('*/*.png'))) for split in ('train', 'val')}


HARD_LABELS = 60  # training digits of each class that keep their label; the others clutter
HARD_VIEWS = 3  # pictures of each validation digit
LEAST_HARD_SIZE = 32


def write_hard_digits(out: Path, size: int, seed: int = 0) -> dict[str, int]:
    """Write the digits so that they are hard to read, in the layout of :func:`write_digits`.

    Few have labels. Each lies at one of many scales anywhere in the picture, on noise, among pieces
    of other digits, with a bar over a part of it. Validation pictures are made alike, each digit
    several times, of validation digits alone; the clutter too.

    Args:
        out: Folder to write to.
        size: Side of the pictures in pixels, 32 or more.
        seed: Of everything that is drawn; the same seed gives the same pictures.

    Returns:
        The number of images in each part.
    """
    for part, (numbers, images, targets) in split_digits().items():
        # Of its own for each part and picture: another number of them changes none.
        for number, image, target in zip(numbers, images, targets):
            rank = np.count_nonzero(targets[numbers < number] == target)
            if part == 'train' and rank >= HARD_LABELS:
                continue
            folder = out / part / str(target)
            folder.mkdir(parents=True, exist_ok=True)
            for view in range(HARD_VIEWS if part == 'val' else 1):
                rng = np.random.default_rng([seed, number, view])
                picture = hard_picture(rng, image, images, size)
                Image.fromarray(picture).save(folder / f'{number:04d}_{view}.png')
    return {part: len(list((out / part).glob('*/*.png'))) for part in ('train', 'val')}


def hard_picture(
    rng: np.random.Generator, digit: np.ndarray, others: np.ndarray, size: int
) -> np.ndarray:
    """One digit (8, 8), from 0 to 16, in a picture (size, size) with others' pieces, as uint8."""
    canvas = np.zeros((size, size), np.float32)
    for _ in range(rng.integers(3, 6)):  # pieces of a digit, a quarter each, fainter than it
        other = others[rng.integers(len(others))]
        row, column = rng.choice([0, 4], 2)
        piece = _enlarged(
            other[row : row + 4, column : column + 4], rng.integers(size // 7, size // 4 + 1)
        )
        _paste(rng, canvas, piece * rng.uniform(0.3, 0.6))
    side = rng.integers(size * 3 // 7, size * 6 // 7 + 1)
    scan = _enlarged(digit, side) * rng.uniform(0.7, 1.0)
    bar = rng.integers(0, side - side // 6)  # it hides a sixth of the digit, across or along it
    (scan if rng.random() < 0.5 else scan.T)[bar : bar + side // 6] = 0
    _paste(rng, canvas, scan)
    noisy = canvas + rng.normal(0, 20, canvas.shape)
    return noisy.clip(0, 255).round().astype(np.uint8)


def _enlarged(scan: np.ndarray, side: int) -> np.ndarray:
    image = Image.fromarray((scan * (255 / 16)).round().astype(np.uint8))
    return np.array(image.resize((int(side), int(side)), Image.BICUBIC), np.float32)


def _paste(rng: np.random.Generator, canvas: np.ndarray, scan: np.ndarray) -> None:
    """Lay ink anywhere on a canvas, in place; where two overlap the darker one shows."""
    y, x = rng.integers(0, len(canvas) - len(scan) + 1, 2)
    part = canvas[y : y + len(scan), x : x + len(scan)]
    np.maximum(part, scan, out=part)

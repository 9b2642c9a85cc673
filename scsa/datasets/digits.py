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

"""The images of a file, a folder or a glob; what cannot be read is named, skipped and counted."""

from __future__ import annotations

import glob
import random
from pathlib import Path
from typing import Iterator

import mmcv
import numpy as np
from PIL import Image
from tqdm import tqdm

from ..cli import UserError

FORMATS = ['.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm', '.gif']


class Images:
    """Images to go through once, with a progress bar.

    Args:
        source: An image, a folder (all below it) or a glob, where ``**`` stands for any folders.
        limit: At most so many, evenly spread over all.
        shuffled: Whether to go through them in a random order, always the same: by name, images of
            a class follow each other.

    Attributes:
        paths: All that are to be read.
        skipped: Those that could not be, once one has gone through.

    Raises:
        UserError: There is no image there.
    """

    def __init__(
        self, source: str | Path, limit: int | None = None, shuffled: bool = False
    ) -> None:
        self.paths = find_images(source)
        if limit is not None and limit < len(self.paths):
            step = len(self.paths) / limit
            self.paths = [self.paths[int(i * step)] for i in range(limit)]
        if shuffled:
            random.Random(0).shuffle(self.paths)
        self.skipped: list[Path] = []

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[tuple[Path, np.ndarray]]:
        """Gives each path and its image (height, width, 3) uint8, RGB."""
        for path in tqdm(self.paths, unit='image', disable=None):  # none where nobody looks on
            try:
                image = read_image(path)
            except OSError as error:
                self.skipped.append(path)
                tqdm.write(f'skipped {path}: {error}')
                continue
            yield path, image

    def summary(self) -> str:
        """How many were read and how many skipped, once one has gone through.

        Raises:
            UserError: None could be read.
        """
        count = len(self.paths) - len(self.skipped)
        if count == 0:
            raise UserError(f'none of {len(self.paths)} images could be read; give others')
        return f'{count} images, {len(self.skipped)} skipped'


def find_images(source: str | Path) -> list[Path]:
    """The images that a file, a folder or a glob names, sorted.

    A file is taken whatever its name; of a folder and a glob, what an image is called.

    Raises:
        UserError: There is none.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    pattern = f'{glob.escape(str(path))}/**' if path.is_dir() else str(source)
    found = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
    found = [name for name in found if name.suffix.lower() in FORMATS and name.is_file()]
    if not found:
        what = 'no image in folder' if path.is_dir() else 'no image found:'
        raise UserError(f'{what} {source}; give an image, a folder or a glob ({" ".join(FORMATS)})')
    return found


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as the pipelines of OpenMMLab do: 8 bits, turned as its EXIF says.

    Returns:
        (height, width, 3) uint8, RGB.

    Raises:
        OSError: It is no image, is cut off or damaged, or is of a format that OpenCV cannot read.
    """
    try:
        with Image.open(path) as image:
            image.load()  # of a file that is cut off OpenCV gives the upper part
        bgr = mmcv.imread(str(path))
    except Exception as error:  # each decoder raises its own: of a damaged PNG a SyntaxError
        why = ' '.join(str(error).split()) or type(error).__name__
        raise OSError(why) from error
    if bgr is None:
        raise OSError('a format that OpenCV cannot read')
    return np.ascontiguousarray(bgr[..., ::-1])


def unique_stems(paths: list[Path]) -> dict[Path, str]:
    """What to call what is made of each image: its name without suffix, ``_`` if it is taken."""
    stems: dict[Path, str] = {}
    taken = set()
    for path in paths:
        stem = path.stem
        while stem in taken:  # a.jpg and a.png, or of two folders
            stem += '_'
        taken.add(stem)
        stems[path] = stem
    return stems

"""Look at one image, and its label map, as training reads them.

This part of the check takes time: it runs in processes of its own, and gives plain values back.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Callable, Iterator, Mapping

import mmcv
import numpy as np
from mmengine.fileio import get
from PIL import Image, UnidentifiedImageError


@dataclass(frozen=True)
class Fault:
    """Something wrong with the data.

    Attributes:
        kind: A key of `scsa.datasets.check.KINDS`.
        path: The file to look at.
        detail: What is wrong, in a few words.
        image: The image that training does better without, if that helps.
    """

    kind: str
    path: str
    detail: str
    image: str | None = None

    def __str__(self) -> str:
        return f'{self.path}: {self.kind}: {self.detail}'


@dataclass(frozen=True)
class Sample:
    """An image of a data set.

    Attributes:
        image: Its path.
        size: Width and height that the annotations state, if they do.
        label_map: Path of its label map, if it has one.
    """

    image: str
    size: tuple[int, int] | None = None
    label_map: str | None = None


@dataclass(frozen=True)
class Reading:
    """How the pipeline of a data set reads a file, and what the model expects.

    Attributes:
        color_type: As for mmcv's ``LoadImageFromFile``.
        backend: What decodes an image.
        backend_args: Where files lie, if not on a disk.
        channels: How many the model takes, if that is known.
        labels: What a value of a label map stands for: a class, or None where it is ignored.
            None, where the classes are not known.
    """

    color_type: str = 'color'
    backend: str | None = 'cv2'
    backend_args: dict | None = None
    channels: int | None = 3
    labels: Mapping[int, int | None] | None = None


@dataclass
class Seen:
    """What has been found in one sample.

    Attributes:
        faults: What is wrong.
        grey: Whether the image has one channel; None, if it cannot be read.
        classes: Those that its label map shows.
    """

    faults: list[Fault] = field(default_factory=list)
    grey: bool | None = None
    classes: set[int] = field(default_factory=set)


class Unusable(Exception):
    """A file that cannot be read; its arguments are kind and detail."""


def look_at(sample: Sample, reading: Reading) -> Seen:
    """Look at an image and its label map."""
    seen, shape = Seen(), None

    def note(kind: str, path: str, detail: str) -> None:
        seen.faults.append(Fault(kind, path, detail, sample.image))

    try:
        shape = _look_at_image(sample, reading, seen, note)
    except Unusable as error:
        note(error.args[0], sample.image, error.args[1])
    if sample.label_map is not None:
        try:
            _look_at_label_map(sample, reading, seen, note, shape)
        except Unusable as error:
            note(error.args[0], sample.label_map, error.args[1])
    return seen


def _look_at_image(sample: Sample, reading: Reading, seen: Seen, note: Callable) -> tuple[int, int]:
    data = _bytes(sample.image, reading)
    mode, bands = _strictly(data)
    with _decoder_says() as said:
        image = _decoded(data, reading.color_type, reading.backend)
    if said:
        note('decoder', sample.image, '; '.join(said))
    shape = image.shape[:2]
    channels = 1 if image.ndim == 2 else image.shape[2]
    if reading.channels not in (None, channels):
        note('channels', sample.image, f'{channels}, and the model takes {reading.channels}')
    elif bands not in (None, 1, 3, channels):
        note('channels', sample.image, f'{bands} ({mode}), of which training reads {channels}')
    if mode and mode.startswith(('I', 'F')) and image.dtype == np.uint8:
        note('depth', sample.image, f'more than 8 bits a value ({mode}), read as 8')
    seen.grey = bands == 1
    if sample.size not in (None, shape[::-1]):
        (wide, high), (height, width) = sample.size, shape
        turned = ', turned by its EXIF tag' if _turned(data) else ''
        note(
            'size',
            sample.image,
            f'{width} x {height}{turned}; the annotations state {wide} x {high}',
        )
    return shape


def _look_at_label_map(
    sample: Sample, reading: Reading, seen: Seen, note: Callable, shape: tuple[int, int] | None
) -> None:
    data = _bytes(sample.label_map, reading)
    _strictly(data)
    with _decoder_says():
        labels = _decoded(data, 'unchanged', 'pillow').squeeze()
    if labels.ndim != 2:
        raise Unusable('label-map', f'{labels.shape[2]} channels, not one')
    if shape is not None and labels.shape != tuple(shape):
        (height, width), (high, wide) = labels.shape, shape
        detail = f'{width} x {height}, and its image {wide} x {high}'
        note('label-map', sample.label_map, detail)
    if reading.labels is None:
        return
    values, pixels = np.unique(labels, return_counts=True)
    found = dict(zip(values.tolist(), pixels.tolist()))
    beyond = {value: count for value, count in found.items() if value not in reading.labels}
    if beyond:
        some = ', '.join(map(str, list(beyond)[:5])) + (', …' if len(beyond) > 5 else '')
        known = [value for value in reading.labels if value != 255]
        detail = f'{some} in {sum(beyond.values())} pixels; the classes take 0 to {max(known)}'
        note('label-value', sample.label_map, detail)
    seen.classes = {reading.labels[value] for value in found if value in reading.labels} - {None}


def _bytes(path: str, reading: Reading) -> bytes:
    try:
        data = get(path, backend_args=reading.backend_args)
    except FileNotFoundError:
        raise Unusable('not-found', 'there is no such file') from None
    except OSError as error:
        raise Unusable('unreadable', error.strerror or str(error)) from None
    if not data:
        raise Unusable('unreadable', 'the file is empty')
    return data


def _strictly(data: bytes) -> tuple[str | None, int | None]:
    """Read every byte of an image; older OpenCV fills the missing part of one with grey.

    Returns:
        Pillow's mode and the number of channels; None, where Pillow does not know the format.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of its metadata
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                return image.mode, len(image.getbands())
    except UnidentifiedImageError:
        return None, None
    except Exception as error:  # each format raises its own
        kind = 'truncated' if 'truncated' in str(error) else 'unreadable'
        raise Unusable(kind, str(error) or type(error).__name__) from None


def _decoded(data: bytes, color_type: str, backend: str | None) -> np.ndarray:
    try:
        image = mmcv.imfrombytes(data, flag=color_type, backend=backend)
    except Exception as error:  # each decoder raises its own
        raise Unusable('unreadable', ' '.join(str(error).split())) from None
    if image is None:
        raise Unusable('unreadable', 'not an image that OpenCV can decode')
    return image


def _turned(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as image:
        return image.getexif().get(0x0112, 1) >= 5  # the tag of the orientation


@contextmanager
def _decoder_says() -> Iterator[list[str]]:
    """Catch what the decoders' C code writes to stderr, where it would be without a file name."""
    said: list[str] = []
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(before, 2)
            os.close(before)
            caught.seek(0)
            lines = caught.read().decode(errors='replace').splitlines()
            said += [line.strip() for line in Counter(lines) if line.strip()]

"""Builds COCO JSON from other formats and accounts for every record on the way.

A converter opens `writer.image(...)` around each image and `writer.box(...)` around each box; a
`RecordError` raised inside is counted, printed in one line, and the conversion goes on (or stops,
with `strict`). What was read is counted apart from what became of it, and the summary refuses to
be printed if the two differ.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Iterable, Iterator, Sequence

from PIL import Image
from tqdm import tqdm

from scsa.cli import UserError


class RecordError(Exception):
    """A record that cannot be converted.

    Args:
        reason: A few fixed words, by which the summary counts.
        detail: What was found, for the line that is printed.
    """

    def __init__(self, reason: str, detail: object):
        super().__init__(f'{reason}: {detail}')
        self.reason = reason


class Report:
    """The books: records read, by kind, against what became of them.

    Args:
        title: What the summary is about.
        strict: Stop at the first bad record.
    """

    def __init__(self, title: str, strict: bool):
        self.title = title
        self.strict = strict
        self.read = Counter()
        self.outcomes = Counter()
        self.notes = Counter()

    def reject(self, kind: str, where: object, bad: RecordError) -> None:
        """Prints and counts one bad record."""
        line = f'{where}: {bad}'
        if self.strict:
            raise UserError(f'{line}; stopped by --strict')
        tqdm.write(f'rejected {line}', file=sys.stderr)
        self.outcomes[kind, f'rejected, {bad.reason}'] += 1

    def summary(self) -> str:
        """Returns the table; an account that does not balance is a bug and raises."""
        rows = []
        for kind, read in self.read.items():
            rows.append((f'{kind} read', read))
            outcomes = [(name, n) for (of, name), n in sorted(self.outcomes.items()) if of == kind]
            if sum(n for _, n in outcomes) != read:
                raise AssertionError(f'{self.title}: {read} {kind} in, but {outcomes} out')
            rows += [(f'  {name}', n) for name, n in outcomes]
        rows += sorted(self.notes.items())
        width = max(len(name) for name, _ in rows)
        return '\n'.join([self.title, *(f'  {name:<{width}}  {n:>9,}' for name, n in rows)])


class CocoWriter:
    """Collects images and boxes of one split.

    Args:
        title: Name of the split in the progress bar and the summary.
        classes: Class names; category ids are 1, 2, … in this order.
        strict: Stop at the first bad record.
    """

    def __init__(self, title: str, classes: Sequence[str], strict: bool):
        self.report = Report(title, strict)
        self.category_ids = {name: i for i, name in enumerate(classes, 1)}
        self.images = []
        self.annotations = []

    def progress(self, items: Sequence) -> Iterable:
        """Iterates with a progress bar, which stays away when stderr is no terminal."""
        return tqdm(items, desc=self.report.title, unit='image', disable=None)

    @contextmanager
    def image(self, where: object, boxes: int) -> Iterator[None]:
        """Accounts for one image and its `boxes`, which are rejected with it."""
        report = self.report
        report.read['images'] += 1
        report.read['boxes'] += boxes
        try:
            yield
        except RecordError as bad:
            report.reject('images', where, bad)
            if boxes:
                report.outcomes['boxes', f'rejected with the image, {bad.reason}'] += boxes
        else:
            report.outcomes['images', 'written'] += 1

    @contextmanager
    def box(self, where: object) -> Iterator[None]:
        """Accounts for one box; the body ends in `add_box`, `skip_box` or a `RecordError`."""
        try:
            yield
        except RecordError as bad:
            self.report.reject('boxes', where, bad)

    def add_image(self, path: Path, file_name: str, stated: tuple[int, int] | None = None) -> dict:
        """Adds an image and returns its COCO entry.

        Args:
            path: The file; only its header is read.
            file_name: Its name in the JSON, relative to the image folder of the config.
            stated: Width and height that the annotations claim, if they do.
        """
        try:
            with Image.open(path) as image:
                width, height = image.size
        except FileNotFoundError:
            raise RecordError('image not found', path) from None
        except OSError as error:
            raise RecordError('image unreadable', error) from None
        if stated is not None and stated != (width, height):
            raise RecordError('wrong image size', f'{stated}, the file has {(width, height)}')
        entry = {'id': len(self.images) + 1, 'file_name': file_name}
        entry.update(width=width, height=height)
        self.images.append(entry)
        return entry

    def add_box(
        self, image: dict, xywh: Sequence[float], classes: Iterable[str], ignore: bool = False
    ) -> None:
        """Adds a box, clipped to the image; less than a pixel of it left is a bad record.

        Args:
            image: The entry that `add_image` returned.
            xywh: Left, top, width, height in pixels.
            classes: Its class; an ignored region without a class of its own has all of them,
                since COCO evaluation looks at one class at a time.
            ignore: Neither object nor background (`iscrowd` in COCO).
        """
        x, y, w, h = xywh
        if w <= 0 or h <= 0:
            raise RecordError('no area', f'width {w:g}, height {h:g}')
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + w, image['width']), min(y + h, image['height'])
        # mmdet drops boxes of less than a pixel without a word.
        if right - left < 1 or bottom - top < 1:
            inside = f'{x:g},{y:g},{w:g},{h:g} in {image["width"]} x {image["height"]}'
            raise RecordError('less than a pixel inside the image', inside)
        width, height = right - left, bottom - top
        for name in classes:
            annotation = {
                'id': len(self.annotations) + 1,  # pycocotools takes a match with 0 for none
                'image_id': image['id'],
                'category_id': self.category_ids[name],
                'bbox': [left, top, width, height],
                'area': width * height,
                'iscrowd': int(ignore),
            }
            self.annotations.append(annotation)
        outcome = 'written as ignored region' if ignore else 'written'
        self.report.outcomes['boxes', outcome] += 1
        if (left, top, right, bottom) != (x, y, x + w, y + h):
            self.report.notes['boxes clipped to the image'] += 1

    def skip_box(self, why: str) -> None:
        """Counts a good box that is left out on purpose."""
        self.report.outcomes['boxes', f'left out, {why}'] += 1

    def save(self, path: Path) -> None:
        """Writes the JSON and prints the summary."""
        with_boxes = {annotation['image_id'] for annotation in self.annotations}
        self.report.notes['annotations in the file'] = len(self.annotations)
        self.report.notes['images without boxes'] = len(self.images) - len(with_boxes)
        print(self.report.summary())
        write_coco(path, self.images, self.annotations, list(self.category_ids))
        print(f'  -> {path}')


def write_coco(path: Path, images: list, annotations: list, classes: Sequence[str]) -> None:
    """Writes a COCO file whose category ids are 1, 2, … in the order of `classes`."""
    categories = [{'id': i, 'name': name} for i, name in enumerate(classes, 1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({'images': images, 'annotations': annotations, 'categories': categories})
    path.write_text(text, encoding='utf-8')


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Returns the non-blank lines with their numbers; byte order marks and CRLF are fine."""
    text = path.read_text(encoding='utf-8-sig', errors='replace')
    stripped = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in stripped if line]


def numbers(fields: Sequence) -> list[float]:
    """Returns finite numbers, or raises `RecordError`."""
    try:
        values = [float(field) for field in fields]
    except (TypeError, ValueError):
        raise RecordError('not a number', fields) from None
    if not all(map(math.isfinite, values)):
        raise RecordError('not a number', fields)
    return values

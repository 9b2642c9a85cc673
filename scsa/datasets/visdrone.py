"""VisDrone2019-DET to COCO JSON.

One text file per image, one box per line:
`left,top,width,height,score,category,truncation,occlusion`, sometimes with a comma at the end.
Category 0 is an ignored region and 11 is 'others'; score 0 marks what the evaluation leaves out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from scsa.cli import UserError, existing
from scsa.datasets.coco_writer import CocoWriter, RecordError, numbers, read_lines

CLASSES = (
    'pedestrian',
    'people',
    'bicycle',
    'car',
    'van',
    'truck',
    'tricycle',
    'awning-tricycle',
    'bus',
    'motor',
)
SPLITS = ('train', 'val', 'test-dev')
HOW = 'unpack the VisDrone2019-DET archives there, or choose other --splits'


def parse_line(line: str) -> tuple[list[float], Sequence[str], bool]:
    """Returns box, classes and whether it is to be ignored.

    Ignored regions and 'others' may hold objects of any of the ten classes, so they are ignored
    for all of them; a box with score 0 is ignored for its own class.
    """
    fields = line.rstrip(',').split(',')
    if len(fields) != 8:
        raise RecordError('wrong number of columns', f'{len(fields)} instead of 8 in {line!r}')
    *xywh, score, category, _, _ = numbers(fields)
    if category in (0, len(CLASSES) + 1):
        return xywh, CLASSES, True
    if category not in range(1, len(CLASSES) + 1):
        raise RecordError('unknown category', f'{category:g}, allowed are 0 to 11')
    return xywh, CLASSES[int(category) - 1 : int(category)], score == 0


def convert(root: Path, out: Path, splits: Sequence[str], strict: bool) -> None:
    """Writes `instances_{train,val,test-dev}.json`.

    Args:
        root: Holds `VisDrone2019-DET-{train,val,test-dev}/{images,annotations}`.
        out: Folder of the JSON files.
        splits: Which of `SPLITS`.
        strict: Stop at the first bad record.
    """
    folders = [root / f'VisDrone2019-DET-{split}' for split in splits]
    for folder in folders:
        existing(folder / 'images', 'image folder', HOW)
        existing(folder / 'annotations', 'annotation folder', HOW)
    for split, folder in zip(splits, folders):
        convert_split(folder, strict).save(out / f'instances_{split}.json')


def convert_split(folder: Path, strict: bool) -> CocoWriter:
    """Reads every image that has a picture, an annotation file, or both."""
    images = {path.stem for path in (folder / 'images').glob('[!.]*.jpg')}
    annotated = {path.stem for path in (folder / 'annotations').glob('[!.]*.txt')}
    if not annotated:
        raise UserError(f'no annotation file (*.txt) in {folder / "annotations"}; {HOW}')
    writer = CocoWriter(folder.name, CLASSES, strict)
    for name in writer.progress(sorted(images | annotated)):
        file = folder / 'annotations' / f'{name}.txt'
        lines = read_lines(file) if name in annotated else []
        with writer.image(file, boxes=len(lines)):
            if name not in annotated:
                raise RecordError('no annotation file', f'for image {name}.jpg')
            image = writer.add_image(folder / 'images' / f'{name}.jpg', f'{name}.jpg')
            for number, line in lines:
                with writer.box(f'{file}:{number}'):
                    writer.add_box(image, *parse_line(line))
    return writer

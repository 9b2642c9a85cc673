"""Thermal images of FLIR ADAS v2 to COCO JSON with a class subset.

Each split folder has a `coco.json` that is nearly COCO: it declares 80 categories under COCO's
ids and uses 16 of them, its image ids start at 0, and a few boxes have no width. (`index.json`
beside it is the raw form of the same annotations; FLIR recommends `coco.json` for training.)
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Sequence

from scsa.cli import UserError, existing
from scsa.datasets.coco_writer import CocoWriter, RecordError, numbers

# The other six of the 16 have at most six boxes in the validation images each, too few for an AP.
CLASSES = (
    'person',
    'bike',
    'car',
    'motor',
    'bus',
    'truck',
    'light',
    'hydrant',
    'sign',
    'other vehicle',
)
FOLDERS = {
    'train': 'images_thermal_train',
    'val': 'images_thermal_val',
    'test': 'video_thermal_test',
}
HOW = 'unpack FLIR_ADAS_v2 there, or choose other --splits'


def convert(
    root: Path, out: Path, splits: Sequence[str], classes: Sequence[str], strict: bool
) -> None:
    """Writes `instances_{train,val,test}.json`.

    Args:
        root: Holds the folders of `FOLDERS`.
        out: Folder of the JSON files.
        splits: Which keys of `FOLDERS`.
        classes: Names to keep, as `coco.json` spells them; category ids follow their order.
        strict: Stop at the first bad record.
    """
    files = [root / FOLDERS[split] / 'coco.json' for split in splits]
    for file in files:
        existing(file, 'annotation file', HOW)
    for split, file in zip(splits, files):
        convert_split(file, classes, strict).save(out / f'instances_{split}.json')


def load(file: Path, classes: Sequence[str]) -> tuple[list, list, dict]:
    """Returns images, annotations and category names by id."""
    try:
        content = json.loads(file.read_text(encoding='utf-8-sig'))
        images, annotations = content['images'], content['annotations']
        names = {category['id']: category['name'] for category in content['categories']}
        if not all(isinstance(record, dict) for record in [*images, *annotations]):
            raise TypeError('a record is no JSON object')
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{file} is no COCO file ({error}); unpack it again') from None
    missing = set(classes) - set(names.values())
    if missing:
        raise UserError(
            f'{file} has no class {", ".join(sorted(missing))}; '
            f'choose --classes from {", ".join(names.values())}'
        )
    return images, annotations, names


def convert_split(file: Path, classes: Sequence[str], strict: bool) -> CocoWriter:
    """Reads one `coco.json`; a record is named by its place in the lists of that file."""
    images, annotations, names = load(file, classes)
    writer = CocoWriter(file.parent.name, classes, strict)
    boxes = defaultdict(list)
    for position, annotation in enumerate(annotations):
        boxes[annotation.get('image_id')].append((f'{file}: annotations[{position}]', annotation))
    seen = set()
    for position, record in enumerate(writer.progress(images)):
        # Taken out, so that what is left in the end belongs to no image.
        own = boxes.pop(record.get('id'), [])
        with writer.image(f'{file}: images[{position}]', boxes=len(own)):
            name, size = record.get('file_name'), (record.get('width'), record.get('height'))
            if not isinstance(name, str):
                raise RecordError('no file_name', record)
            if record.get('id') in seen:
                raise RecordError('image id seen before', record['id'])
            seen.add(record.get('id'))
            image = writer.add_image(file.parent / name, name, size)
            for where, annotation in own:
                with writer.box(where):
                    add_box(writer, image, annotation, names)
    for image_id, orphans in boxes.items():
        for where, _ in orphans:
            writer.report.read['boxes'] += 1
            with writer.box(where):
                raise RecordError('unknown image', f'image_id {image_id}')
    return writer


def add_box(writer: CocoWriter, image: dict, annotation: dict, names: dict) -> None:
    """Adds a box if its class is among those chosen."""
    category, xywh = annotation.get('category_id'), annotation.get('bbox')
    if category not in names:
        raise RecordError('unknown category', category)
    if not isinstance(xywh, list) or len(xywh) != 4:
        raise RecordError('no bbox of four numbers', xywh)
    xywh = numbers(xywh)
    if names[category] in writer.category_ids:
        ignore = bool(annotation.get('iscrowd'))
        writer.add_box(image, xywh, [names[category]], ignore)
    else:
        writer.skip_box('class not chosen')

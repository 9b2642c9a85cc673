"""ExDark (Exclusively Dark) to COCO JSON.

`imageclasslist.txt` has a header and one row per image: name, class, light, indoor or outdoor,
split. Boxes are in `ExDark_Annno/CLASS/IMAGE.txt` (IMAGE with its extension), in the bbGt format
of Piotr's toolbox: a header, then `Class left top width height`, five columns about occlusion, an
ignore flag and an angle.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from scsa.cli import UserError, existing
from scsa.datasets.coco_writer import CocoWriter, RecordError, Report, numbers, read_lines

CLASSES = (
    'Bicycle',
    'Boat',
    'Bottle',
    'Bus',
    'Car',
    'Cat',
    'Chair',
    'Cup',
    'Dog',
    'Motorbike',
    'People',
    'Table',
)
SPLITS = {1: 'train', 2: 'val', 3: 'test'}
HEADER = '% bbGt version=3'


def parse_row(line: str) -> tuple[str, str, str]:
    """Returns image name, class folder and split of one row of `imageclasslist.txt`."""
    fields = line.split()
    if len(fields) != 5:
        raise RecordError('wrong number of columns', f'{len(fields)} instead of 5 in {line!r}')
    name, *codes = fields
    label, _, _, split = numbers(codes)
    if label not in range(1, len(CLASSES) + 1):
        raise RecordError('unknown class', f'{label:g}, allowed are 1 to {len(CLASSES)}')
    if split not in SPLITS:
        raise RecordError('unknown split', f'{split:g}, allowed are 1 (train), 2 (val), 3 (test)')
    return name, CLASSES[int(label) - 1], SPLITS[split]


def parse_line(line: str) -> tuple[list[float], tuple[str], bool]:
    """Returns box, class and whether it is to be ignored."""
    label, *fields = line.split()
    if len(fields) != 11:
        raise RecordError('wrong number of columns', f'{len(fields) + 1} instead of 12 in {line!r}')
    if label not in CLASSES:
        raise RecordError('unknown category', f'{label!r}, allowed are {", ".join(CLASSES)}')
    values = numbers(fields)
    return values[:4], (label,), values[9] != 0


def convert(root: Path, out: Path, split_file: Path, strict: bool) -> None:
    """Writes `instances_{train,val,test}.json`.

    Args:
        root: Holds `ExDark/CLASS/` with the images and `ExDark_Annno/CLASS/` with the boxes.
        out: Folder of the JSON files.
        split_file: `imageclasslist.txt`.
        strict: Stop at the first bad record.
    """
    existing(split_file, 'split file', "take it from ExDark's repository, or set --split-file")
    images, annotations = index(root / 'ExDark'), index(root / 'ExDark_Annno')
    rows = read_split_file(split_file, annotations, strict)
    for split in SPLITS.values():
        writer = CocoWriter(f'ExDark {split}', CLASSES, strict)
        for folder, name in writer.progress(rows[split]):
            add(writer, root, folder, name, images, annotations)
        writer.save(out / f'instances_{split}.json')


def index(folder: Path) -> dict[tuple[str, str], Path]:
    """Maps (class, file name in small letters) to files.

    The list, the images and the annotations do not agree on `.jpg` or `.JPG`.
    """
    how = 'unpack ExDark.zip and ExDark_Annno.zip into the root folder'
    found = {}
    for label in CLASSES:
        for path in existing(folder / label, 'class folder', how).glob('[!.]*'):
            found[label, path.name.lower()] = path
    return found


def read_split_file(path: Path, annotations: dict, strict: bool) -> dict[str, list]:
    """Returns (class folder, image name) by split; no row and no annotation file is lost."""
    report = Report(path.name, strict)
    rows = defaultdict(list)
    listed = set()
    lines = read_lines(path)
    if not lines or not lines[0][1].startswith('Name'):
        raise UserError(f"{path} does not start with 'Name | Class | …'; is it imageclasslist.txt?")
    for number, line in lines[1:]:
        report.read['rows'] += 1
        try:
            name, label, split = parse_row(line)
            if (label, name.lower()) in listed:
                raise RecordError('listed before', name)
        except RecordError as bad:
            report.reject('rows', f'{path}:{number}', bad)
        else:
            listed.add((label, name.lower()))
            rows[split].append((label, name))
            report.outcomes['rows', split] += 1
    for (label, name), file in annotations.items():
        report.read['annotation files'] += 1
        if (label, name[: -len('.txt')]) in listed:
            report.outcomes['annotation files', 'in a row'] += 1
        else:
            report.reject('annotation files', file, RecordError('in no row of', path.name))
    print(report.summary())
    return rows


def add(
    writer: CocoWriter, root: Path, folder: str, name: str, images: dict, annotations: dict
) -> None:
    """Adds one image and its boxes."""
    expected = root / 'ExDark_Annno' / folder / f'{name}.txt'
    file = annotations.get((folder, expected.name.lower()), expected)
    (_, header), *lines = (read_lines(file) if file.exists() else []) or [(1, '')]
    with writer.image(file, boxes=len(lines)):
        if not file.exists():
            raise RecordError('no annotation file', f'for image {name}')
        if header != HEADER:
            raise RecordError('no header', f'the first line is {header!r} instead of {HEADER!r}')
        path = images.get((folder, name.lower()), root / 'ExDark' / folder / name)
        image = writer.add_image(path, f'{folder}/{path.name}')
        for number, line in lines:
            with writer.box(f'{file}:{number}'):
                writer.add_box(image, *parse_line(line))

"""Read lists and annotations of a data set as they lie on the disk.

mmdet leaves boxes out when it reads them, and mmpretrain stops at the first bad line; to find all
faults, each format is read here. What no reader here knows is read by its own class.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Sequence

from mmengine.fileio import get_text, join_path, list_from_file, load

from .check_files import Fault, Sample

ROUNDING = 0.5  # pixels by which a box may stand out of its image; VOC counts from 1, others 0


@dataclass
class Listing:
    """What a data set consists of.

    Attributes:
        where: Its list, annotation file or folder.
        names: Of its classes.
        samples: Its images.
        faults: What is wrong with the lists.
        used: The classes that occur; None, where only the label maps tell.
        labels: What the values of label maps stand for.
        boxes: How many there are.
    """

    where: str
    names: Sequence[str] = ()
    samples: list[Sample] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    used: set[int] | None = field(default_factory=set)
    labels: Mapping[int, int | None] | None = None
    boxes: int = 0

    def fault(self, kind: str, detail: str, image: str | None = None, path: str = '') -> None:
        """Note what is wrong."""
        self.faults.append(Fault(kind, str(path or self.where), detail, image))

    def box(
        self, at: Sequence, size: tuple[float, float], what: str, leave_out: str | None, path=''
    ) -> None:
        """Look at a box (left, top, right, bottom) of an image (width, height)."""
        self.boxes += 1
        if len(at) != 4 or not all(map(_number, at)):
            self.fault('annotation', f'{what}: no box: {list(at)}', leave_out, path)
            return
        left, top, right, bottom = at
        width, height = size
        shown = f'from {left:g}, {top:g} to {right:g}, {bottom:g}'
        if right <= left or bottom <= top:
            self.fault('box-area', f'{what}: {shown}', leave_out, path)
        elif min(left, top, width - right, height - bottom) < -ROUNDING:
            self.fault('box-outside', f'{what}: {shown}, in {width:g} x {height:g}', path=path)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def read(dataset: Any, num_classes: int | None) -> Listing:
    """Read the lists of a data set.

    Args:
        dataset: One that has not loaded its annotations yet (``lazy_init=True``).
        num_classes: How many the model's head has, for lists that do not name them.
    """
    owner = next((c for c in type(dataset).__mro__ if 'load_data_list' in vars(c)), None)
    reader = READERS.get(f'{owner.__module__.split(".")[0]}.{owner.__name__}', _any)
    where = getattr(dataset, 'ann_file', '') or next(
        filter(None, getattr(dataset, 'data_prefix', {}).values()), ''
    )
    names = tuple(dataset.metainfo.get('classes') or ())
    listing = Listing(str(where) or str(dataset.data_root), names)
    try:
        reader(dataset, listing, num_classes)
    except FileNotFoundError as error:
        detail = 'there is no such file or folder; docs/datasets.md shows the layout'
        listing.fault('not-found', detail, path=error.filename or listing.where)
    except OSError as error:
        listing.fault('annotation', f'cannot be read: {error}')
    if not listing.samples and not listing.faults:
        listing.fault('empty', 'no image is found')
    return listing


def _custom(dataset: Any, listing: Listing, num_classes: int | None) -> None:
    """Read what mmpretrain's ImageNet and CustomDataset do: folders of classes, or a list."""
    labelled = list(_labelled(dataset, listing))
    if not listing.names and num_classes:
        listing.names = tuple(map(str, range(num_classes)))
    labels: dict[str, int] = {}
    for path, label, what in labelled:
        if path in labels:
            other = '' if labels[path] == label else f', as {labels[path]} and as {label}'
            detail = f'{what}{path} is there twice{other}'
            listing.fault('duplicate', detail, path if other else None)
            continue
        labels[path] = label
        listing.samples.append(Sample(path))
        if label is not None and not 0 <= label < len(listing.names):
            detail = f'{what}{path} has label {label}, and there are {len(listing.names)} classes'
            listing.fault('label-value', detail, path)
        elif label is not None:
            listing.used.add(label)
    if not dataset.with_label:
        listing.used = None


def _labelled(dataset: Any, listing: Listing) -> Iterable[tuple[str, int | None, str]]:
    """Yield path, label and, where it is from a list, the line's name."""
    from mmpretrain.datasets.custom import find_folders, get_samples

    root = dataset.img_prefix
    if dataset.ann_file:
        for number, line in enumerate(list_from_file(dataset.ann_file), 1):
            what = f'line {number}: '
            words = line.strip().rsplit(' ', 1) if dataset.with_label else [line.strip(), None]
            if len(words) == 2 and words[0] and _integer(words[1]):
                yield join_path(root, words[0]), words[1] and int(words[1]), what
            else:
                listing.fault('annotation', f'{what}no file with a label: {line!r}')
        return
    if not Path(root).is_dir() and '://' not in str(root):
        raise FileNotFoundError(2, '', str(root))
    folders, index = find_folders(root) if dataset.with_label else ((), None)
    samples, _ = get_samples(root, index, is_valid_file=dataset.is_valid_file)
    if listing.names and dataset.with_label and len(folders) != len(listing.names):
        detail = (
            f'{len(folders)} folders for {len(listing.names)} classes: labels go by their order'
        )
        listing.fault('annotation', detail)
    listing.names = listing.names or folders
    for sample in samples:
        name, label = sample if dataset.with_label else (sample, None)
        yield join_path(root, name), label, ''


def _integer(word: str | None) -> bool:
    return word is None or word.lstrip('-').isdigit()


def _coco(dataset: Any, listing: Listing, num_classes: int | None) -> None:
    """Read what mmdet's CocoDataset does."""
    try:
        content = load(dataset.ann_file)
        images, categories = content['images'], content['categories']
        annotations = content.get('annotations', [])
    except (ValueError, KeyError, TypeError) as error:
        listing.fault('annotation', f'not a COCO file: {type(error).__name__}: {error}')
        return
    sizes = _coco_images(dataset, listing, images)
    ids = [category['id'] for category in categories]
    _twice(listing, ids, 'category')
    known = {c['id']: c['name'] for c in categories}
    for name in set(listing.names) - set(known.values()):
        detail = f'class {name!r} is not among its categories: {", ".join(known.values())}'
        listing.fault('unknown-class', detail)
    labels = {name: label for label, name in enumerate(listing.names)}
    other: Counter = Counter()
    _twice(listing, [entry.get('id') for entry in annotations], 'annotation')
    for entry in annotations:
        what = f'annotation {entry.get("id")}'
        lacking = [k for k in ('id', 'image_id', 'category_id', 'bbox', 'area') if k not in entry]
        if lacking:
            listing.fault('annotation', f'{what} has no {", ".join(lacking)}')
            continue
        if entry['id'] == 0:
            listing.fault('annotation', f'{what}: pycocotools takes a match with 0 for none')
        if entry['image_id'] not in sizes:
            listing.fault('annotation', f'{what}: there is no image {entry["image_id"]}')
            continue
        path, size = sizes[entry['image_id']]
        what = f'{what} of {path}'
        if entry['category_id'] not in known:
            listing.fault('unknown-class', f'{what}: there is no category {entry["category_id"]}')
        elif known[entry['category_id']] in labels:
            listing.used.add(labels[known[entry['category_id']]])
        else:
            other[known[entry['category_id']]] += 1
        _coco_box(listing, entry, size, what)
    _unused(listing, other)


def _coco_images(dataset: Any, listing: Listing, images: list[dict]) -> dict[Any, tuple]:
    """Note the images of a COCO file; give path and size of each by its id."""
    found: dict[Any, tuple] = {}
    names: dict[str, Any] = {}
    for position, image in enumerate(images):
        lacking = [k for k in ('id', 'file_name', 'width', 'height') if k not in image]
        if lacking:
            listing.fault('annotation', f'images[{position}] has no {", ".join(lacking)}')
            continue
        path = join_path(dataset.data_prefix['img'], image['file_name'])
        if image['id'] in found:  # the boxes of both get to the last
            for one in (found[image['id']][0], path):
                listing.fault('duplicate', f'image id {image["id"]} is there twice: {one}', one)
        elif image['file_name'] in names:
            ids = f'{names[image["file_name"]]} and {image["id"]}'
            listing.fault('duplicate', f'{path} is there twice, as image {ids}')
        names.setdefault(image['file_name'], image['id'])
        found[image['id']] = path, (image['width'], image['height'])
        listing.samples.append(Sample(path, (image['width'], image['height'])))
    return found


def _coco_box(listing: Listing, entry: dict, size: tuple[int, int], what: str) -> None:
    """Look at a box of a COCO file. Those without area are left out by mmdet, without a word."""
    box = entry['bbox']
    if len(box) != 4 or not all(map(_number, box)):
        listing.box(box, size, what, None)
        return
    left, top, width, height = box
    listing.box((left, top, left + width, top + height), size, what, None)
    area = entry['area']
    if width > 0 < height and (min(width, height) < 1 or not _number(area) or area <= 0):
        detail = f'width {width:g}, height {height:g}, area {area}'
        listing.fault('box-area', f'{what}: {detail}; mmdet leaves it out')


def _twice(listing: Listing, ids: list, what: str) -> None:
    for one, count in Counter(ids).items():
        if count > 1 and one is not None:
            listing.fault('duplicate', f'{what} id {one} is there {count} times')


def _unused(listing: Listing, other: Counter) -> None:
    for name, count in other.items():
        detail = f'{count} boxes of class {name!r}, which the config does not name, are left out'
        listing.fault('unused-class', detail)


def _xml(dataset: Any, listing: Listing, num_classes: int | None) -> None:
    """Read what mmdet's XMLDataset and VOCDataset do."""
    root, other = dataset.sub_data_root, Counter()
    lines = [line.strip() for line in list_from_file(dataset.ann_file)]
    _twice(listing, lines, 'image')
    for name in dict.fromkeys(lines):
        image = join_path(root, dataset.img_subdir, f'{name}.jpg')
        path = join_path(root, dataset.ann_subdir, f'{name}.xml')
        try:
            text = get_text(path, backend_args=dataset.backend_args)
            size, objects = _parsed(text)
        except FileNotFoundError:
            listing.fault('not-found', f'no annotations of {image}', image, path)
            size, objects = None, []
        except (ValueError, AttributeError, TypeError, ET.ParseError) as error:
            listing.fault('annotation', f'not a VOC file: {error}', image, path)
            size, objects = None, []
        listing.samples.append(Sample(image, size))
        for position, (label, box) in enumerate(objects, 1):
            if label in listing.names:
                listing.used.add(listing.names.index(label))
            else:
                other[label] += 1
                continue
            bounds = size if size and all(size) else (math.inf, math.inf)
            listing.box(box, bounds, f'object {position} of {image}', image, path)
    _unused(listing, other)


def _parsed(text: str) -> tuple[tuple[int, int] | None, list[tuple[str, list[int]]]]:
    """Size, and name and box of each object of a VOC file."""
    root = ET.fromstring(text)
    size = root.find('size')
    if size is not None:
        size = int(size.find('width').text), int(size.find('height').text)
    objects = []
    for one in root.findall('object'):
        box = one.find('bndbox')
        corners = [int(float(box.find(k).text)) for k in ('xmin', 'ymin', 'xmax', 'ymax')]
        objects.append((one.find('name').text, corners))
    return size, objects


def _maps(dataset: Any, listing: Listing, num_classes: int | None) -> None:
    """Read what mmseg's BaseSegDataset does, of which ADE20K is one."""
    listing.used = None
    count = len(dataset.METAINFO.get('classes', ())) if dataset.label_map else len(listing.names)
    count = count or num_classes
    folder = dataset.data_prefix.get('img_path')
    if not dataset.ann_file and '://' not in str(folder) and not Path(folder).is_dir():
        raise FileNotFoundError(2, '', str(folder))
    if dataset.ann_file and '://' not in dataset.ann_file and not Path(dataset.ann_file).exists():
        raise FileNotFoundError(2, '', dataset.ann_file)
    if count:
        listing.labels = label_values(dataset, count)
    entries = dataset.load_data_list()
    _twice(listing, [entry['img_path'] for entry in entries], 'image')
    found = {e['img_path']: Sample(e['img_path'], None, e.get('seg_map_path')) for e in entries}
    listing.samples += found.values()


def label_values(dataset: Any, count: int) -> dict[int, int | None]:
    """What each value of a label map stands for: a class, or None where it is ignored."""
    ignored = {255, dataset.ignore_index}
    first = int(dataset.reduce_zero_label)
    new = dataset.label_map or {old: old for old in range(count)}
    values: dict[int, int | None] = dict.fromkeys(ignored)
    if first:
        values[0] = None
    for old in range(count):
        label = new.get(old, old)
        values[old + first] = None if label in ignored else label
    return values


def _any(dataset: Any, listing: Listing, num_classes: int | None) -> None:
    """Any other data set of mmengine, as it reads itself."""
    try:
        dataset.full_init()
    except FileNotFoundError:
        raise
    except Exception as error:  # it is not ours to know what it raises
        listing.fault('annotation', f'cannot be read: {type(error).__name__}: {error}')
        return
    listing.names = tuple(dataset.metainfo.get('classes') or map(str, range(num_classes or 0)))
    labelled = False
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        path = info.get('img_path')
        size = (info['width'], info['height']) if 'width' in info and 'height' in info else None
        if path is not None:
            listing.samples.append(Sample(path, size, info.get('seg_map_path')))
        labels = info.get('gt_label', [])
        for label in labels if isinstance(labels, (list, tuple)) else [labels]:
            labelled = True
            if 0 <= label < len(listing.names):
                listing.used.add(label)
            else:
                detail = f'{path} has label {label}, and there are {len(listing.names)} classes'
                listing.fault('label-value', detail, path)
        for instance in info.get('instances', []):
            labelled = True
            if 'bbox_label' in instance:
                listing.used.add(instance['bbox_label'])
            if 'bbox' in instance:
                what = f'a box of {path}'
                listing.box(instance['bbox'], size or (math.inf,) * 2, what, path)
    if not labelled:
        listing.used = None


READERS: dict[str, Callable] = {
    'mmpretrain.CustomDataset': _custom,
    'mmdet.CocoDataset': _coco,
    'mmdet.XMLDataset': _xml,
    'mmseg.BaseSegDataset': _maps,
}

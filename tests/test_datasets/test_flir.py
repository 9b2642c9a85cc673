"""FLIR ADAS v2 files, good and broken, through the converter."""

from __future__ import annotations

import json
import time

import pytest
from dataset_helpers import boxes, counts, picture, run_tool, write
from pycocotools.coco import COCO

from scsa.cli import UserError
from scsa.datasets.flir import CLASSES, convert

# As in the release: COCO's ids with some names changed, far more of them than are used.
NAMES = {1: 'person', 2: 'bike', 3: 'car', 4: 'motor', 6: 'bus', 8: 'truck', 10: 'light'}
NAMES.update({11: 'hydrant', 12: 'sign', 17: 'dog', 73: 'stroller', 79: 'other vehicle'})


def annotation(number, image_id=0, category_id=3, bbox=(1, 2, 30, 40), **more):
    return {
        'id': number,
        'image_id': image_id,
        'category_id': category_id,
        'bbox': list(bbox),
        'area': 1200,
        'segmentation': [[1, 2, 31, 2, 1, 42, 31, 42]],
        'iscrowd': False,
        'track_id': number,
        'extra_info': {'human_annotated': 'human'},
        **more,
    }


def image(number, width=100, height=80):
    return {
        'id': number,
        'file_name': f'data/video-abc-frame-{number:06}-xyz.jpg',
        'width': width,
        'height': height,
        'extra_info': {'video_id': 'abc'},
    }


def split(root, annotations, images=None, folder='images_thermal_train'):
    """Writes `coco.json` with one image unless told otherwise; returns the file."""
    images = [image(0)] if images is None else images
    for entry in images:
        picture(root / folder / f'data/video-abc-frame-{entry["id"]:06}-xyz.jpg')
    categories = [{'id': i, 'name': name, 'supercategory': ''} for i, name in NAMES.items()]
    coco = {'images': images, 'annotations': annotations, 'categories': categories, 'info': {}}
    return write(root / folder / 'coco.json', json.dumps(coco))


def converted(root, classes=CLASSES, strict=False):
    convert(root, root / 'out', ['train'], classes, strict)
    return boxes(root / 'out/instances_train.json')


NAME = 'data/video-abc-frame-000000-xyz.jpg'


def test_ids_are_mapped_by_name(tmp_path, capsys):
    """Classes count from 1 in the order asked for; the others are left out and counted."""
    split(tmp_path, [annotation(1, category_id=79), annotation(2), annotation(3, category_id=17)])
    assert converted(tmp_path, ['car', 'other vehicle']) == [
        (NAME, 'other vehicle', [1, 2, 30, 40], 0),
        (NAME, 'car', [1, 2, 30, 40], 0),
    ]
    coco = json.loads((tmp_path / 'out/instances_train.json').read_text())
    assert coco['categories'] == [{'id': 1, 'name': 'car'}, {'id': 2, 'name': 'other vehicle'}]
    table = counts(capsys.readouterr().out)
    assert (table['boxes read'], table['left out, class not chosen']) == (3, 1)


def test_crowd_and_clipping(tmp_path):
    split(tmp_path, [annotation(1, bbox=(90.5, -2, 20, 10)), annotation(2, iscrowd=True)])
    assert converted(tmp_path) == [
        (NAME, 'car', [90.5, 0, 9.5, 8], 0),
        (NAME, 'car', [1, 2, 30, 40], 1),
    ]


BAD_ANNOTATIONS = [
    ({'bbox': [1, 2, 0, 40]}, 'no area: width 0, height 40'),
    ({'bbox': [1, 2, 30, -1]}, 'no area: width 30, height -1'),
    ({'bbox': [1, 90, 30, 40]}, 'less than a pixel inside the image: '),
    ({'bbox': [1, 2, 30]}, 'no bbox of four numbers: [1, 2, 30]'),
    ({'bbox': None}, 'no bbox of four numbers: None'),
    ({'bbox': [1, 2, 'wide', 40]}, 'not a number: '),
    ({'category_id': 99}, 'unknown category: 99'),
    ({'category_id': None}, 'unknown category: None'),
    ({'image_id': 7}, 'unknown image: image_id 7'),
]


@pytest.mark.parametrize(('change', 'reason'), BAD_ANNOTATIONS)
def test_bad_annotation(tmp_path, capsys, change, reason):
    file = split(tmp_path, [annotation(1), {**annotation(2), **change}])
    assert len(converted(tmp_path)) == 1
    output = capsys.readouterr()
    (message,) = output.err.splitlines()
    assert message.startswith(f'rejected {file}: annotations[1]: {reason}')
    table = counts(output.out)
    assert (table['boxes read'], table['written']) == (2, 1)


def test_bad_images(tmp_path, capsys):
    """Missing file, wrong size, repeated id, no file name: the boxes are counted with them."""
    entries = [image(0), image(1), image(2, width=640), image(0), {'id': 3}]
    own = [annotation(i, image_id=i) for i in range(4)]
    split(tmp_path, own, entries)
    (tmp_path / 'images_thermal_train/data/video-abc-frame-000001-xyz.jpg').unlink()
    assert [name for name, *_ in converted(tmp_path)] == [NAME]
    output = capsys.readouterr()
    reasons = [line.split(']: ')[1].split(':')[0] for line in output.err.splitlines()]
    assert reasons == [
        'image not found',
        'wrong image size',
        'image id seen before',
        'no file_name',
    ]
    table = counts(output.out)
    assert (table['images read'], table['boxes read'], table['written']) == (5, 4, 1)


def test_strict_stops(tmp_path):
    split(tmp_path, [annotation(1), annotation(2, bbox=(1, 2, 0, 40))])
    with pytest.raises(UserError, match=r'annotations\[1\]: no area.*--strict'):
        converted(tmp_path, strict=True)


@pytest.mark.parametrize('text', ['', '[]', '{"images": []}', '{"images": 1, "annotations": []'])
def test_not_a_coco_file(tmp_path, text):
    write(tmp_path / 'images_thermal_train/coco.json', text)
    with pytest.raises(UserError, match=r'coco\.json is no COCO file'):
        converted(tmp_path)


def test_unknown_class_names_those_there_are(tmp_path):
    split(tmp_path, [annotation(1)])
    with pytest.raises(UserError, match='no class bicycle; choose --classes from person, bike'):
        converted(tmp_path, ['bicycle'])


def test_tool(tmp_path):
    split(tmp_path, [annotation(1), annotation(2, category_id=1)])
    missing = run_tool('flir', tmp_path)
    assert (missing.returncode, missing.stderr.count('\n')) == (2, 1)
    assert 'images_thermal_val' in missing.stderr
    done = run_tool('flir', tmp_path, '--splits', 'train', '--classes', 'person')
    assert done.returncode == 0
    assert boxes(tmp_path / 'annotations/instances_train.json')[0][1] == 'person'


@pytest.mark.alone
def test_ten_thousand_records(tmp_path, capsys):
    """10,000 images in a minute at most, read back by pycocotools, nothing lost."""
    entries = [image(i) for i in range(10_000)]
    own = [annotation(i, image_id=i) for i in range(10_000)]
    own += [annotation(10_000 + i, image_id=i, bbox=(1, 1, 0, 0)) for i in range(0, 10_000, 10)]
    split(tmp_path, own, entries[:1])
    jpeg = (tmp_path / 'images_thermal_train' / NAME).read_bytes()
    file = tmp_path / 'images_thermal_train/coco.json'
    coco = json.loads(file.read_text())
    file.write_text(json.dumps({**coco, 'images': entries}))
    for i, entry in enumerate(entries):
        if i % 100 != 1:
            (tmp_path / 'images_thermal_train' / entry['file_name']).write_bytes(jpeg)
    start = time.perf_counter()
    convert(tmp_path, tmp_path, ['train'], CLASSES, strict=False)
    assert time.perf_counter() - start <= 60
    table = counts(capsys.readouterr().out)
    coco = COCO(tmp_path / 'instances_train.json')
    assert len(coco.getImgIds()) == 9900 == table['images read'] - 100
    assert len(coco.getAnnIds()) == table['written'] == 9900
    assert table['boxes read'] == 11_000

"""VisDrone2019-DET files, good and broken, through the converter."""

from __future__ import annotations

import json
import time

import pytest
from dataset_helpers import boxes, counts, picture, run_tool, write
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from scsa.cli import UserError
from scsa.datasets.visdrone import CLASSES, convert

TRAIN = 'VisDrone2019-DET-train'


def split(root, **files):
    """Writes `NAME=text` as annotation files, each with its image; returns the two folders."""
    folder = root / TRAIN
    for name, text in files.items():
        write(folder / 'annotations' / f'{name}.txt', text)
        picture(folder / 'images' / f'{name}.jpg')
    return folder / 'images', folder / 'annotations'


def converted(root, strict=False):
    convert(root, root / 'out', ['train'], strict)
    return boxes(root / 'out/instances_train.json')


def test_boxes_and_classes(tmp_path):
    """Trailing commas, CRLF, a byte order mark and blank lines are all seen in the wild."""
    split(tmp_path, a='\ufeff1,2,30,40,1,4,0,0\r\n5,6,7,8,1,10,1,2,\r\n\r\n', b='0,0,9,9,1,1,0,0')
    assert converted(tmp_path) == [
        ('a.jpg', 'car', [1, 2, 30, 40], 0),
        ('a.jpg', 'motor', [5, 6, 7, 8], 0),
        ('b.jpg', 'pedestrian', [0, 0, 9, 9], 0),
    ]


def test_ignored_regions_cover_all_classes(tmp_path):
    """Category 0 and 11 for every class, score 0 for its own only."""
    split(tmp_path, a='1,2,30,40,0,0,0,0\n5,6,7,8,0,11,0,0\n1,1,9,9,0,3,0,0')
    assert converted(tmp_path) == [
        *(('a.jpg', name, [1, 2, 30, 40], 1) for name in CLASSES),
        *(('a.jpg', name, [5, 6, 7, 8], 1) for name in CLASSES),
        ('a.jpg', 'bicycle', [1, 1, 9, 9], 1),
    ]


def test_detections_in_ignored_regions_do_not_count(tmp_path):
    """A bus found inside an ignored region is no false positive; one outside is."""
    split(tmp_path, a='0,0,20,20,1,9,0,0\n50,0,50,80,0,0,0,0')
    converted(tmp_path)
    coco = COCO(tmp_path / 'out/instances_train.json')

    def precision(*extra):
        found = [[0, 0, 20, 20], *extra]
        scores = range(1, len(found) + 1)  # the extra ones come first
        results = [
            {'image_id': 1, 'category_id': 9, 'bbox': box, 'score': score}
            for box, score in zip(found, scores)
        ]
        evaluation = COCOeval(coco, coco.loadRes(results), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation.stats[1]

    assert precision() == pytest.approx(1)
    assert precision([60, 10, 15, 15]) == pytest.approx(1)
    assert precision([20, 60, 15, 15]) == pytest.approx(0.5)


def test_image_without_objects_is_kept(tmp_path, capsys):
    """An empty annotation file says that there is nothing: a negative example."""
    split(tmp_path, a='', b='0,0,9,9,1,1,0,0')
    assert [name for name, *_ in converted(tmp_path)] == ['b.jpg']
    assert len(json.loads((tmp_path / 'out/instances_train.json').read_text())['images']) == 2
    assert counts(capsys.readouterr().out)['images without boxes'] == 1


def test_clipping(tmp_path, capsys):
    """The part inside the 100 x 80 image stays, if it has a pixel."""
    split(tmp_path, a='-5,-5,20,20,1,4,0,0\n90,70,20,20,1,4,0,0\n10,10,20,20,1,4,0,0')
    assert [box for _, _, box, _ in converted(tmp_path)] == [
        [0, 0, 15, 15],
        [90, 70, 10, 10],
        [10, 10, 20, 20],
    ]
    assert counts(capsys.readouterr().out)['boxes clipped to the image'] == 2


BAD_LINES = {
    '1,2,0,40,1,4,0,0': 'no area: width 0, height 40',
    '1,2,30,-4,1,4,0,0': 'no area: width 30, height -4',
    '100,2,30,40,1,4,0,0': 'less than a pixel inside the image: 100,2,30,40 in 100 x 80',
    '1,2,x,40,1,4,0,0': 'not a number: ',
    '1,2,nan,40,1,4,0,0': 'not a number: ',
    '1,2,30,40,1,12,0,0': 'unknown category: 12, allowed are 0 to 11',
    '1,2,30,40,1,4.5,0,0': 'unknown category: 4.5, allowed are 0 to 11',
    '1,2,30,40,1,4,0': 'wrong number of columns: 7 instead of 8',
    '1,2,30,40,1,4,0,0,0': 'wrong number of columns: 9 instead of 8',
    '1 2 30 40 1 4 0 0': 'wrong number of columns: 1 instead of 8',
}


@pytest.mark.parametrize(('line', 'reason'), BAD_LINES.items())
def test_bad_line(tmp_path, capsys, line, reason):
    """File, line and reason on one line; the good line beside it survives; the sums are right."""
    _, annotations = split(tmp_path, a=f'0,0,9,9,1,1,0,0\n{line}\n')
    assert len(converted(tmp_path)) == 1
    output = capsys.readouterr()
    (message,) = output.err.splitlines()
    assert message.startswith(f'rejected {annotations / "a.txt"}:2: {reason}')
    table = counts(output.out)
    assert table['boxes read'] == 2
    assert table['written'] == 1
    assert table[f'rejected, {reason.split(":")[0]}'] == 1


def test_bad_images(tmp_path, capsys):
    """A missing or unreadable image takes its boxes with it, and each is counted."""
    good = '0,0,9,9,1,1,0,0\n'
    images, annotations = split(tmp_path, a=good, gone=good * 3, broken=good * 2, bare=good)
    (images / 'gone.jpg').unlink()
    (images / 'broken.jpg').write_bytes(b'no image')
    (annotations / 'bare.txt').unlink()
    assert [name for name, *_ in converted(tmp_path)] == ['a.jpg']
    output = capsys.readouterr()
    assert len(output.err.splitlines()) == 3
    table = counts(output.out)
    assert table['images read'] == 4
    assert table['rejected, image not found'] == 1
    assert table['rejected, no annotation file'] == 1
    assert table['rejected with the image, image not found'] == 3
    assert table['rejected with the image, image unreadable'] == 2
    assert table['boxes read'] == 6


def test_strict_stops(tmp_path):
    split(tmp_path, a='1,2,0,40,1,4,0,0')
    with pytest.raises(UserError, match=r'a\.txt:1: no area.*--strict'):
        converted(tmp_path, strict=True)


def test_tool(tmp_path):
    """Exit code 2 and one line for what the user can fix; 0 and a summary otherwise."""
    split(tmp_path / 'data', a='0,0,9,9,1,1,0,0\n1,2,0,40,1,4,0,0')
    missing = run_tool('visdrone', tmp_path / 'data')
    assert missing.returncode == 2
    assert missing.stderr.count('\n') == 1
    assert 'VisDrone2019-DET-val' in missing.stderr
    assert 'Traceback' in run_tool('visdrone', tmp_path / 'data', SCSA_DEBUG='1').stderr

    strict = run_tool('visdrone', tmp_path / 'data', '--splits', 'train', '--strict')
    assert (strict.returncode, strict.stderr.count('\n')) == (2, 1)
    assert not (tmp_path / 'data/annotations').exists()

    done = run_tool('visdrone', tmp_path / 'data', '--splits', 'train')
    assert done.returncode == 0
    assert counts(done.stdout)['boxes read'] == 2
    assert len(boxes(tmp_path / 'data/annotations/instances_train.json')) == 1


@pytest.mark.alone
def test_ten_thousand_records(tmp_path, capsys):
    """10,000 images in a minute at most, read back by pycocotools, nothing lost."""
    line = '1,2,30,40,1,{},0,0\n'
    jpeg = picture(tmp_path / 'a.jpg').read_bytes()
    for i in range(10_000):
        text = line.format(i % 12) + ('bad\n' if i % 10 == 0 else '')
        write(tmp_path / TRAIN / f'annotations/{i:05}.txt', text)
        if i % 100:
            (tmp_path / TRAIN / 'images').mkdir(exist_ok=True)
            (tmp_path / TRAIN / f'images/{i:05}.jpg').write_bytes(jpeg)
    start = time.perf_counter()
    convert(tmp_path, tmp_path, ['train'], strict=False)
    seconds = time.perf_counter() - start
    assert seconds <= 60
    table = counts(capsys.readouterr().out)
    coco = COCO(tmp_path / 'instances_train.json')
    assert len(coco.getImgIds()) == 9900 == table['images read'] - 100
    assert len(coco.getAnnIds()) == table['annotations in the file']
    assert table['boxes read'] == 11_000

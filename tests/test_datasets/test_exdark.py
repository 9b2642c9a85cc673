"""ExDark files, good and broken, through the converter."""

from __future__ import annotations

import time

import pytest
from dataset_helpers import boxes, counts, picture, run_tool, write
from pycocotools.coco import COCO

from scsa.cli import UserError
from scsa.datasets.exdark import CLASSES, convert

HEADER = '% bbGt version=3\n'
LIST_HEADER = 'Name | Class | Light | In/Out | Train/Val/Test\n'
ZEROS = '0 0 0 0 0 0 0'


@pytest.fixture
def root(tmp_path):
    """The folders of all classes, and a list of one image in each split."""
    for name in CLASSES:
        (tmp_path / 'ExDark' / name).mkdir(parents=True)
        (tmp_path / 'ExDark_Annno' / name).mkdir(parents=True)
    rows = '2015_00001.png 1 2 1 1\n2015_00002.jpg 5 1 2 2\n2015_00003.jpg 12 10 1 3\n'
    write(tmp_path / 'imageclasslist.txt', LIST_HEADER + rows)
    for label, name in (('Bicycle', '2015_00001.png'), ('Car', '2015_00002.jpg')):
        image(tmp_path, label, name, f'{HEADER}{label} 1 2 30 40 {ZEROS}\n')
    image(tmp_path, 'Table', '2015_00003.jpg', HEADER)
    return tmp_path


def image(root, label, name, annotation):
    """Writes an image and its annotation file, which it returns."""
    picture(root / 'ExDark' / label / name)
    return write(root / 'ExDark_Annno' / label / f'{name}.txt', annotation)


def converted(root, split='train', strict=False):
    convert(root, root / 'out', root / 'imageclasslist.txt', strict)
    return boxes(root / f'out/instances_{split}.json')


def test_splits(root):
    assert converted(root, 'train') == [('Bicycle/2015_00001.png', 'Bicycle', [1, 2, 30, 40], 0)]
    assert converted(root, 'val') == [('Car/2015_00002.jpg', 'Car', [1, 2, 30, 40], 0)]
    assert converted(root, 'test') == []


def test_boxes_of_other_classes_and_ignore_flag(root):
    """An image in Bicycle/ may hold people; CRLF and a byte order mark do no harm."""
    text = f'\ufeff{HEADER}Bicycle -5 2 30 40 {ZEROS}\nPeople 1 1 9 9 0 0 0 0 0 1 0\n'
    image(root, 'Bicycle', '2015_00001.png', text.replace('\n', '\r\n'))
    assert converted(root) == [
        ('Bicycle/2015_00001.png', 'Bicycle', [0, 2, 25, 40], 0),
        ('Bicycle/2015_00001.png', 'People', [1, 1, 9, 9], 1),
    ]


def test_case_of_file_names(root):
    """The list says .png, the image .PNG, the annotation .Png; the JSON has the image's name."""
    (root / 'ExDark/Bicycle/2015_00001.png').rename(root / 'ExDark/Bicycle/2015_00001.PNG')
    folder = root / 'ExDark_Annno/Bicycle'
    (folder / '2015_00001.png.txt').rename(folder / '2015_00001.Png.txt')
    assert [name for name, *_ in converted(root)] == ['Bicycle/2015_00001.PNG']


BAD_LINES = {
    f'Bicycle 1 2 0 40 {ZEROS}': 'no area: width 0, height 40',
    f'Bicycle 100 2 30 40 {ZEROS}': 'less than a pixel inside the image: ',
    f'Bicycle 1 two 30 40 {ZEROS}': 'not a number: ',
    f'Bike 1 2 30 40 {ZEROS}': "unknown category: 'Bike', allowed are Bicycle, Boat",
    'Bicycle 1 2 30 40': 'wrong number of columns: 5 instead of 12',
}


@pytest.mark.parametrize(('line', 'reason'), BAD_LINES.items())
def test_bad_line(root, capsys, line, reason):
    text = f'{HEADER}Bicycle 1 2 30 40 {ZEROS}\n{line}\n'
    file = image(root, 'Bicycle', '2015_00001.png', text)
    assert len(converted(root)) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith(f'rejected {file}:3: {reason}')


@pytest.mark.parametrize('text', ['', f'Bicycle 1 2 30 40 {ZEROS}\n', '% bbGt version=2\n'])
def test_bad_header(root, capsys, text):
    """Another version has other columns, so without the header nothing is guessed."""
    file = image(root, 'Bicycle', '2015_00001.png', text)
    assert converted(root) == []
    assert capsys.readouterr().err.startswith(f'rejected {file}: no header: the first line is ')


def test_missing_image_and_annotation(root, capsys):
    (root / 'ExDark/Bicycle/2015_00001.png').unlink()
    (root / 'ExDark_Annno/Car/2015_00002.jpg.txt').unlink()
    assert converted(root) == []
    output = capsys.readouterr()
    no_image, no_annotation = output.err.splitlines()
    assert 'image not found: ' in no_image
    assert '2015_00002.jpg.txt: no annotation file: ' in no_annotation
    train = output.out[output.out.index('ExDark train') : output.out.index('ExDark val')]
    assert counts(train)['rejected with the image, image not found'] == 1


BAD_ROWS = {
    'x.jpg 1 2 1': 'wrong number of columns: 4 instead of 5',
    'x.jpg 13 2 1 1': 'unknown class: 13, allowed are 1 to 12',
    'x.jpg 1 2 1 4': 'unknown split: 4, allowed are 1 (train), 2 (val), 3 (test)',
    'x.jpg one 2 1 1': 'not a number: ',
    '2015_00001.PNG 1 2 1 1': 'listed before: 2015_00001.PNG',
}


@pytest.mark.parametrize(('row', 'reason'), BAD_ROWS.items())
def test_bad_row(root, capsys, row, reason):
    split_file = root / 'imageclasslist.txt'
    write(split_file, split_file.read_text() + row)
    assert len(converted(root)) == 1
    output = capsys.readouterr()
    assert output.err.startswith(f'rejected {split_file}:5: {reason}')
    assert counts(output.out)['rows read'] == 4


def test_unlisted_annotation(root, capsys):
    file = image(root, 'Dog', 'stray.jpg', HEADER)
    assert len(converted(root)) == 1
    output = capsys.readouterr()
    assert output.err == f'rejected {file}: in no row of: imageclasslist.txt\n'
    assert counts(output.out)['annotation files read'] == 4


def test_strict_stops(root):
    image(root, 'Bicycle', '2015_00001.png', f'{HEADER}Bicycle 1 2 0 40 {ZEROS}\n')
    with pytest.raises(UserError, match=r'2015_00001\.png\.txt:2: no area.*--strict'):
        converted(root, strict=True)


def test_tool(root):
    assert run_tool('exdark', root).returncode == 0
    assert len(boxes(root / 'annotations/instances_val.json')) == 1
    missing = run_tool('exdark', root, '--split-file', root / 'nowhere.txt')
    assert (missing.returncode, missing.stderr.count('\n')) == (2, 1)
    assert 'nowhere.txt' in missing.stderr


@pytest.mark.parametrize('folder', ['ExDark', 'ExDark_Annno'])
def test_missing_class_folder(root, folder):
    (root / folder / 'Boat').rmdir()
    with pytest.raises(UserError, match=f'class folder not found: .*{folder}/Boat; unpack'):
        converted(root)


def test_not_a_split_file(root):
    write(root / 'imageclasslist.txt', '')
    with pytest.raises(UserError, match=r'is it imageclasslist\.txt'):
        converted(root)


@pytest.mark.alone
def test_ten_thousand_records(root, capsys):
    """10,000 images in a minute at most, read back by pycocotools, nothing lost."""
    png = (root / 'ExDark/Bicycle/2015_00001.png').read_bytes()
    rows = [LIST_HEADER]
    for i in range(10_000):
        label = CLASSES[i % 12]
        rows.append(f'{i}.png {i % 12 + 1} 1 1 1\n')
        text = f'{HEADER}{label} 1 2 30 40 {ZEROS}\n' + ('bad\n' if i % 10 == 0 else '')
        write(root / f'ExDark_Annno/{label}/{i}.png.txt', text)
        if i % 100:
            (root / f'ExDark/{label}/{i}.png').write_bytes(png)
    write(root / 'imageclasslist.txt', ''.join(rows))
    start = time.perf_counter()
    convert(root, root, root / 'imageclasslist.txt', strict=False)
    assert time.perf_counter() - start <= 60
    table = counts(capsys.readouterr().out.split('ExDark val')[0])
    coco = COCO(root / 'instances_train.json')
    assert len(coco.getImgIds()) == 9900 == table['images read'] - 100
    assert len(coco.getAnnIds()) == table['written'] == 9900
    assert table['boxes read'] == 11_000

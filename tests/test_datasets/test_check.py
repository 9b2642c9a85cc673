"""tools/data/check.py finds each fault in data of each format, and nothing in data without one."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from dataset_helpers import counts, run_tool, write
from PIL import Image

pytest.importorskip('mmpretrain', reason='the data sets are those of OpenMMLab')
from scsa.engine.reading import read_paths


def image(path, size=(60, 40), mode='RGB', seed=0):
    """Noise, so that every byte of the file counts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], bands), np.uint8)
    Image.fromarray(values.squeeze(), mode).save(path)
    return path


def cut(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


class Data:
    """A small data set of some format, clean until a test spoils it."""

    scope = 'mmdet'
    fields = ''

    def __init__(self, root):
        if self.scope != 'mmpretrain':
            pytest.importorskip('mmcv.ops', reason='mmdet and mmseg need its compiled operators')
            pytest.importorskip(self.scope)
        self.root = root
        self.make()

    def config(self):
        dataset = f'dict(data_root={str(self.root)!r}, {self.dataset})'
        text = (
            f'default_scope = {self.scope!r}\n'
            'model = dict(data_preprocessor=dict(mean=[127.5] * 3))\n'
            f'train_dataloader = dict(dataset={dataset})\n{self.fields}'
        )
        return write(self.root / 'config.py', text)

    def check(self, *options):
        return run_tool('data/check', self.config(), '--jobs', '1', *options)


class Folders(Data):
    scope = 'mmpretrain'
    dataset = (
        "type='ImageNet', split='train', metainfo=dict(classes=('cat', 'dog')), "
        "pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]"
    )

    def make(self):
        for i in range(2):
            image(self.root / f'train/n0{i}/a.JPEG', seed=i)
            image(self.root / f'train/n0{i}/b.png', seed=i + 9)


class Lists(Folders):
    dataset = (
        "type='CustomDataset', data_prefix='train', ann_file='list.txt', classes=('cat', 'dog')"
    )

    def make(self):
        super().make()
        self.write('n00/a.JPEG 0', 'n00/b.png 0', 'n01/a.JPEG 1')

    def write(self, *lines):
        write(self.root / 'list.txt', '\n'.join(lines) + '\n')


class Coco(Data):
    dataset = (
        "type='CocoDataset', ann_file='annotations/instances.json', data_prefix=dict(img='images'),"
        "metainfo=dict(classes=('cat', 'dog')), filter_cfg=dict(filter_empty_gt=True, min_size=32),"
        "pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]"
    )

    def make(self):
        self.images = [
            dict(id=i, file_name=f'{i}.jpg', width=60, height=40, license=1) for i in (1, 2)
        ]
        self.categories = [dict(id=18, name='dog'), dict(id=17, name='cat')]
        self.annotations = [self.box(1, 1, 17), self.box(2, 2, 18), self.box(3, 2, 18, iscrowd=1)]
        for one in self.images:
            image(self.root / 'images' / one['file_name'], seed=one['id'])

    def box(self, id_, image_id, category_id, bbox=(5.5, 5, 20, 10.25), **other):
        one = dict(id=id_, image_id=image_id, category_id=category_id, bbox=list(bbox), iscrowd=0)
        return {**one, 'area': bbox[2] * bbox[3], 'segmentation': [], **other}

    def config(self):
        names = ('images', 'categories', 'annotations')
        text = json.dumps({name: getattr(self, name) for name in names})
        write(self.root / 'annotations/instances.json', text)
        return super().config()


class Voc(Data):
    dataset = (
        "type='VOCDataset', ann_file='VOC2007/ImageSets/Main/trainval.txt', "
        "data_prefix=dict(sub_data_root='VOC2007/'), metainfo=dict(classes=('cat', 'dog')), "
        'filter_cfg=dict(filter_empty_gt=True, min_size=32, bbox_min_size=32)'
    )

    def make(self):
        self.names = ['000005', '000007']
        self.boxes = {'000005': [('cat', 1, 1, 60, 40)], '000007': [('dog', 5, 6, 50, 40)]}
        for i, name in enumerate(self.names):
            image(self.root / f'VOC2007/JPEGImages/{name}.jpg', seed=i)

    def config(self):
        write(self.root / 'VOC2007/ImageSets/Main/trainval.txt', '\n'.join(self.names) + '\n')
        for name, boxes in self.boxes.items():
            objects = ''.join(
                f'<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>{a}</xmin>'
                f'<ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>'
                for label, a, b, c, d in boxes
            )
            size = '<size><width>60</width><height>40</height><depth>3</depth></size>'
            text = f'<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>'
            write(self.root / f'VOC2007/Annotations/{name}.xml', text)
        return super().config()


class Ade(Data):
    """The numbers of its 150 classes are 1 to 150 in the files; 0 is ignored."""

    scope = 'mmseg'
    dataset = (
        "type='ADE20KDataset', data_prefix=dict(img_path='images/training', "
        "seg_map_path='annotations/training'), pipeline=[dict(type='LoadImageFromFile'), "
        "dict(type='LoadAnnotations', reduce_zero_label=True)]"
    )
    values = range(151)

    def make(self):
        self.maps = self.root / 'annotations/training'
        for i in (1, 2):
            image(self.root / f'images/training/{i}.jpg', seed=i)
            self.write(i, np.resize(np.array(self.values, np.uint8), (40, 60)))

    def write(self, i, labels, mode=None):
        self.maps.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels, mode).save(self.maps / f'{i}.png')


class Maps(Ade):
    """Without a zero that is ignored, and with a list."""

    dataset = (
        "type='BaseSegDataset', data_prefix=dict(img_path='images/training', "
        "seg_map_path='annotations/training'), ann_file='list.txt', "
        "metainfo=dict(classes=('cat', 'dog')), reduce_zero_label=False"
    )
    values = (0, 1, 255)

    def make(self):
        super().make()
        write(self.root / 'list.txt', '1\n2\n')


def shift(values, **changes):
    values.update(changes)


def label_map(value):
    return lambda d: d.write(2, np.full((40, 60), value, np.uint8))


# The fault, what it does to clean data, and what its line names: kind and path.
FAULTS = {
    Folders: {
        'truncated JPEG': (lambda d: cut(d.root / 'train/n00/a.JPEG'), 'truncated', 'n00/a.JPEG'),
        'truncated PNG': (lambda d: cut(d.root / 'train/n01/b.png'), 'truncated', 'n01/b.png'),
        'empty file': (
            lambda d: write(d.root / 'train/n00/a.JPEG', ''), 'unreadable', 'n00/a.JPEG',
        ),
        'no image': (
            lambda d: write(d.root / 'train/n00/a.JPEG', '<html>'), 'unreadable', 'n00/a.JPEG',
        ),
        'alpha': (lambda d: image(d.root / 'train/n00/b.png', mode='RGBA'), 'channels', 'b.png'),
        'print colours': (
            lambda d: image(d.root / 'train/n00/a.JPEG', mode='CMYK'), 'channels', 'a.JPEG',
        ),
        'folder too many': (lambda d: image(d.root / 'train/n02/a.png'), 'annotation', 'train'),
        'empty folder': (
            lambda d: [path.unlink() for path in (d.root / 'train/n01').iterdir()],
            'empty-class', "class 'dog'",
        ),
        'no folder': (lambda d: shutil.rmtree(d.root / 'train'), 'not-found', 'train'),
    },
    Lists: {
        'no such file': (
            lambda d: (d.root / 'train/n00/b.png').unlink(), 'not-found', 'n00/b.png',
        ),
        'label': (lambda d: d.write('n00/a.JPEG 0', 'n00/b.png 1', 'n01/a.JPEG 2'),
                  'label-value', 'line 3'),
        'twice': (
            lambda d: d.write('n00/a.JPEG 0', 'n01/a.JPEG 1', 'n00/a.JPEG 0'),
            'duplicate', 'line 3',
        ),
        'no label': (lambda d: d.write('n00/a.JPEG 0', 'n01/a.JPEG 1', 'n00/b.png'),
                     'annotation', 'line 3'),
        'class': (lambda d: d.write('n00/a.JPEG 0'), 'empty-class', "'dog'"),
        'no list': (lambda d: (d.root / 'list.txt').unlink(), 'not-found', 'list.txt'),
    },
    Coco: {
        'truncated': (lambda d: cut(d.root / 'images/2.jpg'), 'truncated', '2.jpg'),
        'no such file': (lambda d: (d.root / 'images/2.jpg').unlink(), 'not-found', '2.jpg'),
        'size': (lambda d: image(d.root / 'images/2.jpg', (40, 60)), 'size', '2.jpg'),
        'no area': (lambda d: d.annotations.append(d.box(4, 1, 17, (5, 5, 0, 9))),
                    'box-area', 'annotation 4'),
        'a part of a pixel': (lambda d: d.annotations.append(d.box(4, 1, 17, (5, 5, 0.5, 9))),
                              'box-area', 'annotation 4'),
        'area stated': (lambda d: shift(d.annotations[0], area=0), 'box-area', 'annotation 1'),
        'outside': (lambda d: d.annotations.append(d.box(4, 1, 17, (50, 5, 30, 9))),
                    'box-outside', 'annotation 4'),
        'far outside': (lambda d: d.annotations.append(d.box(4, 1, 17, (-50, 5, 30, 9))),
                        'box-outside', 'annotation 4'),
        'no box': (lambda d: shift(d.annotations[0], bbox=[1, 2, 3]), 'annotation', 'annotation 1'),
        'not finite': (lambda d: shift(d.annotations[0], bbox=[1, 2, 3, float('nan')]),
                       'annotation', 'annotation 1'),
        'id of a box': (lambda d: shift(d.annotations[0], id=2), 'duplicate', 'annotation id 2'),
        'id 0': (lambda d: shift(d.annotations[0], id=0), 'annotation', 'annotation 0'),
        'file twice': (lambda d: d.images.append({**d.images[0], 'id': 3}), 'duplicate', '1.jpg'),
        'category twice': (lambda d: d.categories.append(dict(id=17, name='cat')),
                           'duplicate', 'category id 17'),
        'no such image': (lambda d: d.annotations.append(d.box(4, 9, 17)),
                          'annotation', 'annotation 4'),
        'no such category': (lambda d: d.annotations.append(d.box(4, 1, 9)),
                             'unknown-class', 'annotation 4'),
        'no area stated': (lambda d: d.annotations[0].pop('area'), 'annotation', 'annotation 1'),
        'class': (lambda d: d.annotations.pop(0), 'empty-class', "'cat'"),
        'no boxes': (lambda d: d.annotations.clear(), 'empty-class', 'any of the 2 classes'),
    },
    Voc: {
        'no such file': (lambda d: (d.root / 'VOC2007/JPEGImages/000005.jpg').unlink(),
                         'not-found', '000005.jpg'),
        'no annotations': (lambda d: d.names.append('000009'),
                           'not-found', '000009.xml'),
        'twice': (lambda d: d.names.append('000005'), 'duplicate', '000005'),
        'no area': (lambda d: d.boxes['000005'].append(('cat', 9, 5, 9, 8)), 'box-area', '000005'),
        'outside': (lambda d: d.boxes['000005'].append(('cat', 9, 5, 61, 8)),
                    'box-outside', '000005'),
        'size': (lambda d: image(d.root / 'VOC2007/JPEGImages/000005.jpg', (40, 60)),
                 'size', '000005.jpg'),
        'class': (lambda d: d.boxes['000005'].clear(), 'empty-class', "'cat'"),
    },
    Ade: {
        'beyond': (label_map(151), 'label-value', '2.png'),
        'size': (lambda d: d.write(2, np.zeros((60, 40), np.uint8)), 'label-map', '2.png'),
        'colours': (lambda d: d.write(2, np.zeros((40, 60, 3), np.uint8)), 'label-map', '2.png'),
        'sixteen bits': (lambda d: d.write(2, np.full((40, 60), 257, np.uint16)),
                         'label-value', '2.png'),
        'truncated': (lambda d: cut(d.root / 'images/training/2.jpg'), 'truncated', '2.jpg'),
        'truncated map': (lambda d: cut(d.maps / '2.png'), 'truncated', '2.png'),
        'no map': (lambda d: (d.maps / '2.png').unlink(), 'not-found', '2.png'),
        'no images': (lambda d: shutil.rmtree(d.root / 'images/training'), 'not-found', 'training'),
    },
    Maps: {
        'beyond': (label_map(2), 'label-value', '2.png'),
        'no such file': (lambda d: write(d.root / 'list.txt', '1\n2\n3\n'), 'not-found', '3.jpg'),
        'twice': (lambda d: write(d.root / 'list.txt', '1\n2\n1\n'), 'duplicate', '1.jpg'),
    },
}  # fmt: skip
CASES = [
    pytest.param(kind, fault, id=f'{kind.__name__}-{fault}')
    for kind in FAULTS
    for fault in FAULTS[kind]
]


@pytest.mark.parametrize('kind', FAULTS)
def test_nothing_is_wrong_with_clean_data(kind, tmp_path):
    done = kind(tmp_path).check('--strict')
    assert done.returncode == 0 and 'no faults' in done.stdout, done


@pytest.mark.parametrize(('kind', 'fault'), CASES)
def test_each_fault_is_found(kind, fault, tmp_path):
    data = kind(tmp_path)
    spoil, expected, name = FAULTS[kind][fault]
    spoil(data)
    done = data.check()
    lines = [line for line in done.stdout.splitlines() if f': {expected}: ' in line]
    assert done.returncode == 1 and lines, done
    assert all(line.startswith(str(tmp_path)) for line in lines)
    assert any(name in line for line in lines), lines
    assert 'Traceback' not in done.stderr


def test_the_images_to_leave_out(tmp_path):
    """Those that are at fault themselves, and not those of which a box is."""
    data = Coco(tmp_path)
    data.annotations.append(data.box(4, 1, 17, (5, 5, 0, 9)))
    cut(tmp_path / 'images/2.jpg')
    out, found = tmp_path / 'bad.txt', tmp_path / 'found.json'
    done = data.check('--fix-list', out, '--json', found)
    assert done.returncode == 1 and f'1 images to leave out -> {out}' in done.stdout
    comment, *paths = out.read_text().splitlines()
    assert comment.startswith('# ') and len(paths) == 1
    assert paths[0].startswith(f'{tmp_path}/images/2.jpg\ttruncated: ')
    assert read_paths(out) == {str(tmp_path / 'images/2.jpg')}
    (checked,) = json.loads(found.read_text())
    assert checked['images'] == 2 and checked['boxes'] == 4
    assert [fault['kind'] for fault in checked['faults']] == ['box-area', 'truncated']
    assert counts(done.stdout)['faults'] == 2 and done.stdout.endswith('2 faults\n')


def test_two_images_of_one_id_are_both_left_out(tmp_path):
    """The boxes of both are with the last; mmdet has one image, and nobody knows whose they are."""
    data = Coco(tmp_path)
    data.images[1]['id'] = 1
    data.annotations = [data.box(1, 1, 17), data.box(2, 1, 18)]
    done = data.check('--fix-list', tmp_path / 'bad.txt')
    assert done.stdout.count(': duplicate: image id 1 is there twice') == 2
    assert len((tmp_path / 'bad.txt').read_text().splitlines()) == 3


def test_an_image_with_two_labels_is_left_out(tmp_path):
    data = Lists(tmp_path)
    data.write('n00/a.JPEG 0', 'n01/a.JPEG 1', 'n00/a.JPEG 1')
    done = data.check('--fix-list', tmp_path / 'bad.txt')
    assert 'n00/a.JPEG is there twice, as 0 and as 1' in done.stdout
    assert 'n00/a.JPEG' in (tmp_path / 'bad.txt').read_text()


def test_several_processes_find_the_same(tmp_path):
    data = Folders(tmp_path)
    for i in range(40):
        image(tmp_path / f'train/n00/{i}.png', (8, 8), seed=i)
    for i in range(0, 40, 3):
        cut(tmp_path / f'train/n00/{i}.png')
    done = data.check()
    assert done.returncode == 1 and done.stdout.count(': truncated: ') == 14
    assert run_tool('data/check', data.config(), '--jobs', '2').stdout == done.stdout


def test_what_may_be_meant_is_counted_alone(tmp_path):
    data = Folders(tmp_path)
    image(tmp_path / 'train/n00/grey.png', mode='L')
    done = data.check()
    assert done.returncode == 0 and 'not counted: grey' in done.stdout
    done = data.check('--strict')
    assert done.returncode == 1 and 'n00/grey.png: grey: grey among coloured' in done.stdout
    image(tmp_path / 'train/n00/alpha.png', mode='RGBA')
    assert data.check().returncode == 1
    done = data.check('--ignore', 'channels')
    assert done.returncode == 0 and 'not counted: channels' in done.stdout


def test_a_picture_that_is_turned_when_it_is_read(tmp_path):
    """Sizes in annotations are often those before the turn; OpenCV turns it."""
    data = Coco(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(tmp_path / 'images/2.jpg') as picture:
        picture.save(tmp_path / 'images/2.jpg', exif=exif)
    assert '2.jpg: size: 40 x 60, turned by its EXIF tag; ' in data.check().stdout


def test_all_loaders_and_what_is_inside_of_others(tmp_path):
    data = Folders(tmp_path)
    cut(tmp_path / 'train/n00/a.JPEG')
    whole = 'train_dataloader["dataset"]'
    data.fields = (
        f'val_dataloader = dict(dataset=dict(type="RepeatDataset", times=2, dataset={whole}))\n'
        f'test_dataloader = dict(dataset=dict({whole}, split="val"))\n'
    )
    done = data.check()
    assert 'train_dataloader, val_dataloader: ImageNet' in done.stdout
    assert done.stdout.count('n00/a.JPEG: truncated') == 1
    assert f'{tmp_path}/val: not-found: ' in done.stdout
    data.fields = (
        'train_dataloader = dict(dataset=dict(type="ConcatDataset", datasets=[dict('
        'train_dataloader["dataset"], indices=1)]))\n'
    )
    done = data.check()
    assert 'train_dataloader.datasets.0: ImageNet' in done.stdout
    assert counts(done.stdout)['images'] == 4, 'all of it, not the first'


def test_what_a_converter_writes_is_clean(tmp_path):
    """An ignored region is a box of each class, and no duplicate."""
    from scsa.datasets import visdrone

    data = Coco(tmp_path)
    folder = tmp_path / 'VisDrone2019-DET-val'
    write(folder / 'annotations/a.txt', '1,2,30,30,1,4,0,0\n50,0,50,80,0,0,0,0\n')
    image(folder / 'images/a.jpg')
    visdrone.convert(tmp_path, tmp_path / 'annotations', ['val'], strict=True)
    data.dataset = (
        "type='CocoDataset', ann_file='annotations/instances_val.json', test_mode=True, "
        "data_prefix=dict(img='VisDrone2019-DET-val/images/'), "
        f'metainfo=dict(classes={visdrone.CLASSES!r})'
    )
    done = data.check()
    assert done.returncode == 0 and counts(done.stdout)['boxes'] == 11, done


def test_a_data_set_of_another_format_is_read_by_its_own_class(tmp_path):
    data = Lists(tmp_path)
    data.dataset = "type='BaseDataset', ann_file='list.json', data_prefix=dict(img_path='train')"
    entries = [dict(img_path='n00/a.JPEG', gt_label=0), dict(img_path='n00/c.JPEG', gt_label=2)]
    metainfo = dict(classes=['cat', 'dog'])
    write(tmp_path / 'list.json', json.dumps(dict(metainfo=metainfo, data_list=entries)))
    done = data.check()
    assert 'n00/c.JPEG: not-found' in done.stdout
    assert 'n00/c.JPEG has label 2, and there are 2 classes' in done.stdout
    assert "there is no image of class 'dog'" in done.stdout
    write(tmp_path / 'list.json', '{}')
    assert 'list.json: annotation: cannot be read: ValueError' in data.check().stdout


@pytest.mark.parametrize(
    ('text', 'option', 'said'),
    [
        ('model = dict()', (), 'has no data set: it sets none of train_dataloader'),
        ('', ('--jobs', '0'), '--jobs 0: give the number of processes'),
        ("train_dataloader = dict(dataset=dict(type='None'))", (), "unknown class name 'None'"),
        (
            "train_dataloader = dict(dataset=dict(type='CustomDataset', data_root='.', n=1))",
            (),
            'train_dataloader: the data set does not build: ',
        ),
    ],
)
def test_a_config_that_cannot_be_checked(text, option, said, tmp_path):
    config = write(tmp_path / 'config.py', f"default_scope = 'mmpretrain'\n{text}\n")
    done = run_tool('data/check', config, *option)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count('\n') == 1, done


def no_coco(data):
    (data.root / 'annotations').mkdir()
    data.config = lambda: Data.config(data)
    write(data.root / 'annotations/instances.json', '[]')


def class_of_no_category(data):
    data.categories[0]['name'] = 'bird'


def image_without_a_width(data):
    del data.images[0]['width']


@pytest.mark.parametrize(
    ('spoil', 'said'),
    [
        (no_coco, 'instances.json: annotation: not a COCO file: TypeError'),
        (class_of_no_category, "unknown-class: class 'dog' is not among its categories: bird, cat"),
        (class_of_no_category, "unused-class: 2 boxes of class 'bird', which the config does not"),
        (image_without_a_width, 'instances.json: annotation: images[0] has no width'),
    ],
)
def test_a_coco_file_that_is_none_or_names_other_classes(spoil, said, tmp_path):
    data = Coco(tmp_path)
    spoil(data)
    assert said in data.check('--strict').stdout


def test_annotations_of_voc_that_are_none_or_name_other_classes(tmp_path):
    data = Voc(tmp_path)
    data.boxes['000007'].append(('bird', 5, 6, 50, 40))
    assert "unused-class: 1 boxes of class 'bird'" in data.check('--strict').stdout
    config = data.config()
    write(tmp_path / 'VOC2007/Annotations/000005.xml', '<annotation><size>')
    done = run_tool('data/check', config, '--jobs', '1')
    assert '000005.xml: annotation: not a VOC file: ' in done.stdout


def test_boxes_of_another_format(tmp_path):
    data = Coco(tmp_path)
    data.dataset = (
        "type='BaseDetDataset', ann_file='list.json', data_prefix=dict(img_path='images')"
    )
    boxes = [dict(bbox=[1, 1, 30, 30], bbox_label=0), dict(bbox=[9, 9, 5, 70], bbox_label=0)]
    entries = [dict(img_path='1.jpg', width=60, height=40, instances=boxes)]
    metainfo = dict(classes=['cat', 'dog'])
    write(tmp_path / 'list.json', json.dumps(dict(metainfo=metainfo, data_list=entries)))
    done = data.check()
    assert done.returncode == 1 and 'a box of ' in done.stdout and "of class 'dog'" in done.stdout

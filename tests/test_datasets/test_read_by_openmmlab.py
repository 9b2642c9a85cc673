"""What the converters write is what mmdet and mmseg read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from dataset_helpers import picture, write

from scsa.datasets import digit_scenes, visdrone

pytest.importorskip('mmcv.ops', reason='mmdet and mmseg need mmcv with its compiled operators')
mmdet = pytest.importorskip('mmdet.datasets')
mmseg = pytest.importorskip('mmseg.datasets')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp('scenes') / 'digit_scenes'
    digit_scenes.write(out, {'train': 6, 'val': 2}, size=160, seed=0)
    return out


def test_detection(root):
    """Every box and mask arrives, pixel for pixel of the box."""
    dataset = mmdet.CocoDataset(
        data_root=str(root),
        ann_file='annotations/instances_train.json',
        data_prefix={'img': 'train/'},
        metainfo={'classes': digit_scenes.CLASSES},
        pipeline=[
            {'type': 'mmdet.LoadImageFromFile'},
            {'type': 'mmdet.LoadAnnotations', 'with_bbox': True, 'with_mask': True},
            {'type': 'mmdet.PackDetInputs'},
        ],
    )
    written = json.loads((root / 'annotations/instances_train.json').read_text())['annotations']
    loaded = [item['data_samples'].gt_instances for item in dataset]
    assert len(dataset) == 6
    assert sum(map(len, loaded)) == len(written)
    labels = np.concatenate([instances.labels for instances in loaded])
    assert labels.tolist() == [entry['category_id'] - 1 for entry in written]
    areas = np.concatenate([instances.masks.masks.sum((1, 2)) for instances in loaded])
    assert areas.tolist() == [entry['area'] for entry in written]


def test_segmentation(root):
    """0 in the file is ignored (255), background is class 0, the digit d is class d + 1."""
    dataset = mmseg.BaseSegDataset(
        data_root=str(root / 'ade'),
        data_prefix={'img_path': 'images/training', 'seg_map_path': 'annotations/training'},
        metainfo={'classes': digit_scenes.SEGMENTATION_CLASSES},
        reduce_zero_label=True,
        pipeline=[
            {'type': 'mmseg.LoadImageFromFile'},
            {'type': 'mmseg.LoadAnnotations'},
            {'type': 'mmseg.PackSegInputs'},
        ],
    )
    digits = json.loads((root / 'annotations/instances_train.json').read_text())['annotations']
    expected = {0, 255} | {entry['category_id'] for entry in digits}
    maps = [item['data_samples'].gt_sem_seg.data for item in dataset]
    assert len(maps) == 6
    assert {value for labels in maps for value in labels.unique().tolist()} == expected


def test_ignored_regions(tmp_path):
    """They reach mmdet as ignored instances, apart from the objects."""
    folder = tmp_path / 'VisDrone2019-DET-train'
    write(folder / 'annotations/a.txt', '1,2,30,40,1,4,0,0\n50,0,50,80,0,0,0,0\n')
    picture(folder / 'images/a.jpg')
    visdrone.convert(tmp_path, tmp_path, ['train'], strict=True)
    dataset = mmdet.CocoDataset(
        ann_file=str(tmp_path / 'instances_train.json'),
        data_prefix={'img': str(folder / 'images')},
        metainfo={'classes': visdrone.CLASSES},
        pipeline=[
            {'type': 'mmdet.LoadImageFromFile'},
            {'type': 'mmdet.LoadAnnotations', 'with_bbox': True},
            {'type': 'mmdet.PackDetInputs'},
        ],
    )
    sample = dataset[0]['data_samples']
    assert sample.gt_instances.labels.tolist() == [visdrone.CLASSES.index('car')]
    ignored = sample.ignored_instances
    assert ignored.labels.tolist() == list(range(10))
    assert ignored.bboxes.tensor.unique(dim=0).tolist() == [[50, 0, 100, 80]]

"""What the config tests share: reading, building without weights, a `data/` as the docs lay it out.

Everything is built from the config files as they are; what is taken away is what this machine
lacks: ImageNet weights, and several GPUs for SyncBN.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.config import utils as config_utils
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData

from scsa.analysis.config_table import documented
from scsa.datasets import digit_scenes, exdark, flir, visdrone

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'
SCENES = {'train': 4, 'val': 2}
# COCO's and VOC's names to put on ten digits.
COCO_NAMES = 'person bicycle car motorcycle airplane bus train truck boat bench'
VOC_NAMES = 'aeroplane bicycle bird boat bottle bus car cat chair cow'


def config_names(*patterns: str) -> list[str]:
    """Names below `configs/` that match, so that a new config is tested without being listed."""
    found = [path for pattern in patterns for path in CONFIGS.glob(pattern)]
    return sorted(path.relative_to(CONFIGS).as_posix() for path in found)


# mmengine parses the metafiles of a whole package for every `package::` base of every config.
config_utils.load = functools.lru_cache(maxsize=None)(config_utils.load)


@functools.lru_cache(maxsize=None)
def read(name: str) -> Config:
    """Reads a config of ours; not to be changed, as all tests share it."""
    return Config.fromfile(CONFIGS / name)


def same_recipe(ours: Config, theirs: Config, *changed: str) -> None:
    """Asserts that ours sets alike all that theirs sets, but for the `changed` keys."""
    ours, theirs = flat(ours.to_dict()), flat(theirs.to_dict())
    free = ('pretrained', 'max_epochs', *changed)  # the first two: variables that nothing reads
    different = {
        key: (ours.get(key), value)
        for key, value in theirs.items()
        if ours.get(key) != value and not key.startswith(free)
    }
    assert different == {}


def flat(node, key: str = '') -> dict:
    """Dotted keys to values; `_scope_` says only where a dict was inherited from."""
    if isinstance(node, dict):
        items = [(name, value) for name, value in node.items() if name != '_scope_']
    elif isinstance(node, (list, tuple)) and any(isinstance(item, dict) for item in node):
        items = list(enumerate(node))
    else:
        return {key: node}
    pairs = {}
    for name, value in items:
        pairs.update(flat(value, f'{key}.{name}' if key else str(name)))
    return pairs


def offline(node):
    """A copy of a model's config without weights, the statistics that come with them, SyncBN.

    Nor are blocks left out at random: a step shall reach them all.
    """
    if isinstance(node, dict):
        pairs = {key: offline(value) for key, value in node.items()}
        if pairs.get('type') == 'SyncBN':
            pairs['type'] = 'BN'
        instead = {'init_cfg': None, 'norm_eval': False, 'drop_path_rate': 0.0}
        pairs.update({key: value for key, value in instead.items() if key in pairs})
        return pairs
    return [offline(item) for item in node] if isinstance(node, list) else node


def build(cfg: Config) -> torch.nn.Module:
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(ConfigDict(offline(cfg.model.to_dict())))


def documented_parameters(name: str) -> int:
    """What the table of its page says about a config."""
    segments = name.startswith('segmentation/') or 'upernet' in name or 'fpn_r18' in name
    page = ROOT / 'docs' / ('segmentation.md' if segments else 'detection.md')
    return documented(page)[name]


def head_classes(cfg: Config) -> int:
    """The number of classes that the (last) head of a model predicts."""
    model = cfg.model
    head = model.get('decode_head') or model.get('bbox_head') or model.roi_head.bbox_head
    return (head[-1] if isinstance(head, list) else head).num_classes


def detection_batch(height: int, width: int, images: int = 1) -> dict:
    """Random images with two boxes and masks each, as a dataloader gives them."""
    from mmdet.testing import demo_mm_inputs

    shapes = [[3, height, width]] * images
    return demo_mm_inputs(images, shapes, num_items=[2] * images, num_classes=2, with_mask=True)


def segmentation_batch(height: int, width: int, images: int = 1) -> dict:
    """Random images with label maps, as a dataloader gives them."""
    from mmseg.structures import SegDataSample

    shape = dict(img_shape=(height, width), ori_shape=(height, width), pad_shape=(height, width))
    samples = []
    for _ in range(images):
        labels = torch.randint(11, (1, height, width))
        samples.append(
            SegDataSample(
                gt_sem_seg=PixelData(data=labels), metainfo=dict(img_path='x.jpg', **shape)
            )
        )
    images = [torch.randint(256, (3, height, width), dtype=torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


def train_one_step(model: torch.nn.Module, batch: dict) -> dict:
    """Takes a step of SGD, long enough to be seen in float32, and returns the losses."""
    model.train()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0))
    return model.train_step(batch, wrapper)


def make_data(root: Path) -> None:
    """Makes the whole `data/` of docs/datasets.md out of a few digit scenes."""
    scenes = root / 'digit_scenes'
    digit_scenes.write(scenes, SCENES, size=128, seed=0)
    (root / 'ade').mkdir()
    os.symlink(scenes / 'ade', root / 'ade/ADEChallengeData2016')
    for split in SCENES:
        coco = json.loads((scenes / f'annotations/instances_{split}.json').read_text())
        make_coco(root / 'coco', scenes, split, coco)
        make_voc(root / 'VOCdevkit', scenes, split, coco)
        make_visdrone(root / 'visdrone', scenes, split, coco)
        make_flir(root / 'flir', scenes, split, coco)
    make_exdark(root / 'exdark', scenes)
    visdrone.convert(root / 'visdrone', root / 'visdrone/annotations', list(SCENES), strict=True)
    flir.convert(root / 'flir', root / 'flir/annotations', list(SCENES), flir.CLASSES, strict=True)
    listed = root / 'exdark/imageclasslist.txt'
    exdark.convert(root / 'exdark', root / 'exdark/annotations', listed, strict=True)


def boxes(coco: dict, image: dict) -> list[tuple]:
    """(category id, [left, top, width, height]) of one image."""
    found = [a for a in coco['annotations'] if a['image_id'] == image['id']]
    return [(a['category_id'], a['bbox']) for a in found]


def make_coco(root: Path, scenes: Path, split: str, coco: dict) -> None:
    root.mkdir(exist_ok=True)
    (root / 'annotations').mkdir(exist_ok=True)
    os.symlink(scenes / split, root / f'{split}2017')
    names = [dict(c, name=name) for c, name in zip(coco['categories'], COCO_NAMES.split())]
    text = json.dumps(dict(coco, categories=names))
    (root / f'annotations/instances_{split}2017.json').write_text(text)


def make_voc(root: Path, scenes: Path, split: str, coco: dict) -> None:
    """`train` becomes trainval of both years, `val` the test of 2007."""
    for year in ('2007', '2012') if split == 'train' else ('2007',):
        folder = root / f'VOC{year}'
        lists = folder / 'ImageSets/Main'
        for part in (lists, folder / 'JPEGImages', folder / 'Annotations'):
            part.mkdir(parents=True, exist_ok=True)
        names = []
        for image in coco['images']:
            name = f'{split}_{Path(image["file_name"]).stem}'
            names.append(name)
            shutil.copy(scenes / split / image['file_name'], folder / f'JPEGImages/{name}.jpg')
            objects = [
                f'<object><name>{VOC_NAMES.split()[c - 1]}</name><difficult>0</difficult><bndbox>'
                f'<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>'
                '</bndbox></object>'
                for c, (x, y, w, h) in boxes(coco, image)
            ]
            size = f'<size><width>{image["width"]}</width><height>{image["height"]}</height></size>'
            tree = ElementTree.fromstring(f'<annotation>{size}{"".join(objects)}</annotation>')
            ElementTree.ElementTree(tree).write(folder / f'Annotations/{name}.xml')
        listed = 'trainval' if split == 'train' else 'test'
        (lists / f'{listed}.txt').write_text('\n'.join(names))


def make_visdrone(root: Path, scenes: Path, split: str, coco: dict) -> None:
    folder = root / f'VisDrone2019-DET-{split}'
    shutil.copytree(scenes / split, folder / 'images')
    (folder / 'annotations').mkdir()
    for image in coco['images']:
        lines = [f'{x},{y},{w},{h},1,{c},0,0' for c, (x, y, w, h) in boxes(coco, image)]
        name = Path(image['file_name']).stem
        (folder / f'annotations/{name}.txt').write_text('\n'.join(lines))


def make_flir(root: Path, scenes: Path, split: str, coco: dict) -> None:
    folder = root / flir.FOLDERS[split]
    shutil.copytree(scenes / split, folder / 'data')
    images = [dict(i, file_name=f'data/{i["file_name"]}') for i in coco['images']]
    names = [dict(c, name=name) for c, name in zip(coco['categories'], flir.CLASSES)]
    (folder / 'coco.json').write_text(json.dumps(dict(coco, images=images, categories=names)))


def make_exdark(root: Path, scenes: Path) -> None:
    """Two bicycles for training, one each for validation and test."""
    rows = ['Name | Class | Light | In/Out | Train/Val/Test']
    for label in exdark.CLASSES:
        (root / 'ExDark' / label).mkdir(parents=True)
        (root / 'ExDark_Annno' / label).mkdir(parents=True)
    for number, split in enumerate((1, 1, 2, 3)):
        name = f'2015_{number:05}.jpg'
        shutil.copy(scenes / f'train/{number:05}.jpg', root / 'ExDark/Bicycle' / name)
        text = '% bbGt version=3\nBicycle 5 5 40 30 0 0 0 0 0 0 0\n'
        (root / f'ExDark_Annno/Bicycle/{name}.txt').write_text(text)
        rows.append(f'{name} 1 1 1 {split}')
    (root / 'imageclasslist.txt').write_text('\n'.join(rows))

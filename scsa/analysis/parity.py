"""Outputs of fixed weights on fixed images, to compare from one set of package versions to another.

A case is a model of ours with the weights of :mod:`scsa.analysis.formula`. Its outputs are written
in one environment and compared in another, or with the file that the tests keep.
"""

from __future__ import annotations

import importlib
import json
import platform
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from .complexity import build
from .formula import draw, fill

CONFIGS = Path(__file__).parents[2] / 'configs'
PACKAGES = ('torch', 'numpy', 'mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'mmseg')

LOGITS_BAR = 1e-5  # relative distance
# Where two scores or two logits are all but equal, rounding decides: not every one can agree.
BOXES_BAR = LABELS_BAR = 0.99
BOX_PIXELS, BOX_SCORE = 0.05, 1e-4


class Case(NamedTuple):
    """A model, what it needs, what it says and what of that must agree."""

    config: str
    package: str
    outputs: Callable[[Config], dict[str, np.ndarray]]
    compare: Callable[[dict, dict], tuple[float, str, bool]]


def classify(cfg: Config, gain: float = 1.0) -> dict[str, np.ndarray]:
    """Logits of two images; a hundred classes keep the file small.

    Args:
        cfg: Config of a classifier.
        gain: Factor on the weights of its norms. Without residuals, each gate makes the map
            smaller, until nothing is left of the image.
    """
    cfg.model.head.num_classes = 100
    model = fill(build(cfg))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data *= gain
    with torch.no_grad():
        return dict(logits=model(draw('input', (2, 3, 224, 224), 1.0), mode='tensor').numpy())


def detect(cfg: Config) -> dict[str, np.ndarray]:
    """Boxes, scores and labels of one image."""
    from mmdet.structures import DetDataSample

    found = _test(cfg, DetDataSample).pred_instances
    return dict(
        bboxes=found.bboxes.numpy(), scores=found.scores.numpy(), labels=found.labels.numpy()
    )


def segment(cfg: Config) -> dict[str, np.ndarray]:
    """The label map of one image."""
    from mmseg.structures import SegDataSample

    return dict(labels=_test(cfg, SegDataSample).pred_sem_seg.data.numpy().astype(np.uint8))


def _test(cfg: Config, sample_type: type):
    image = (draw('image', (3, 128, 160), 40.0, 127.0)).clamp(0, 255).byte()
    size = tuple(image.shape[1:])
    sample = sample_type(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0)))
    model = fill(build(cfg))
    with torch.no_grad():
        return model.test_step(dict(inputs=[image], data_samples=[sample]))[0]


def logits_agree(found: dict, expected: dict) -> tuple[float, str, bool]:
    """‖found - expected‖ / ‖expected‖ of the logits, in words, and whether that is near enough."""
    difference = np.linalg.norm(found['logits'] - expected['logits'])
    distance = float(difference / np.linalg.norm(expected['logits']))
    return distance, f'{distance:.1e} relative, {LOGITS_BAR:.0e} allowed', distance <= LOGITS_BAR


def boxes_agree(found: dict, expected: dict) -> tuple[float, str, bool]:
    """The share of the boxes that have a counterpart: its label, corners and score."""
    apart = np.abs(found['bboxes'][:, None] - expected['bboxes']).max(-1)
    score = np.abs(found['scores'][:, None] - expected['scores'])
    same = found['labels'][:, None] == expected['labels']
    pairs = (apart <= BOX_PIXELS) & (score <= BOX_SCORE) & same
    matched = min(pairs.any(0).mean(), pairs.any(1).mean()) if pairs.size else 0.0
    text = f'{pairs.any(0).sum()} of {len(expected["bboxes"])} boxes have their like'
    return float(matched), f'{text}, {BOXES_BAR:.0%} required', bool(matched >= BOXES_BAR)


def labels_agree(found: dict, expected: dict) -> tuple[float, str, bool]:
    """The share of the pixels that have the same label."""
    share = float((found['labels'] == expected['labels']).mean())
    return share, f'{share:.2%} of the pixels alike, {LABELS_BAR:.0%} required', share >= LABELS_BAR


CASES = {
    'resnet50': Case(
        'classification/resnet50_1xb128_in1k_scsa.py', 'mmpretrain', classify, logits_agree
    ),
    'mobilenet_v2': Case(
        'classification/mobilenet-v2_1xb96_in1k_scsa.py',
        'mmpretrain',
        partial(classify, gain=2.0),
        logits_agree,
    ),
    'swin_tiny': Case(
        'classification/swin-tiny_16xb64_in1k_scsa.py', 'mmpretrain', classify, logits_agree
    ),
    'faster_rcnn': Case(
        'detection/faster-rcnn_r50-scsa_fpn_1x_coco.py', 'mmdet', detect, boxes_agree
    ),
    'upernet': Case(
        'segmentation/upernet_r50-scsa_4xb4-160k_ade20k-512x512.py', 'mmseg', segment, labels_agree
    ),
}


def available() -> list[str]:
    """The cases whose packages are installed, mmcv's compiled ops among them."""
    ops = find_spec('mmcv._ext') is not None
    return [
        name
        for name, case in CASES.items()
        if find_spec(case.package) and (ops or case.package == 'mmpretrain')
    ]


def outputs(name: str) -> dict[str, np.ndarray]:
    """What a case gives in this environment."""
    case = CASES[name]
    return case.outputs(Config.fromfile(CONFIGS / case.config))


def compare(name: str, found: dict, expected: dict) -> tuple[float, str, bool]:
    """How far two outputs of a case agree: a figure, the same in words, whether it is enough."""
    return CASES[name].compare(found, expected)


def save(path: Path, results: dict[str, dict[str, np.ndarray]]) -> None:
    """Writes the outputs of cases to PATH.npz, the versions they come from to PATH.json."""
    arrays = {f'{name}.{key}': v for name, found in results.items() for key, v in found.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path.with_suffix('.npz'), **arrays)
    path.with_suffix('.json').write_text(json.dumps(versions(), indent=1) + '\n', 'utf-8')


def load(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Reads the outputs that :func:`save` wrote."""
    results: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path.with_suffix('.npz')) as file:
        for key in file.files:
            name, output = key.split('.')
            results.setdefault(name, {})[output] = file[key]
    return results


def versions() -> dict[str, str]:
    """Of Python and of the packages that outputs depend on."""
    found = dict(python=platform.python_version())
    for name in PACKAGES:
        if find_spec(name):
            found[name] = importlib.import_module(name).__version__
    return found

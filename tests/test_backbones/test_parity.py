"""Every environment gives what paper gave: tests/golden_lanes holds its outputs and versions."""

import json

import numpy as np
import pytest
from numerics import LANES

from scsa.analysis import parity


@pytest.mark.parametrize('name', parity.CASES)
def test_outputs_are_those_of_the_paper_lane(name):
    if name not in parity.available():
        pytest.skip(f'needs {parity.CASES[name].package} and, but for mmpretrain, mmcv with ops')
    _, text, near = parity.compare(name, parity.outputs(name), parity.load(LANES)[name])
    assert near, text


def test_the_outputs_kept_are_worth_comparing():
    """Not one class, not one box, not all alike."""
    kept = parity.load(LANES)
    assert list(kept) == list(parity.CASES)
    for name in ('resnet50', 'mobilenet_v2', 'swin_tiny'):
        logits = kept[name]['logits']
        assert 0.05 < logits.std() < 50 and np.abs(logits[0] - logits[1]).max() > 0.01
    assert len(kept['faster_rcnn']['bboxes']) >= 20
    assert len(np.unique(kept['faster_rcnn']['labels'])) > 1
    assert len(np.unique(kept['upernet']['labels'])) >= 5
    versions = json.loads(LANES.with_suffix('.json').read_text())
    assert versions['torch'].startswith('2.1.1')


def test_what_is_too_far_is_seen():
    kept = parity.load(LANES)
    logits = {'logits': kept['resnet50']['logits'] * (1 + 2e-5)}
    assert not parity.compare('resnet50', logits, kept['resnet50'])[2]
    boxes = dict(kept['faster_rcnn'])
    assert parity.compare('faster_rcnn', boxes, kept['faster_rcnn'])[2]
    for key, change in (('bboxes', 0.1), ('scores', 0.001), ('labels', 1)):
        changed = dict(boxes, **{key: boxes[key] + np.asarray(change, boxes[key].dtype)})
        assert not parity.compare('faster_rcnn', changed, kept['faster_rcnn'])[2], key
    fewer = {key: value[:-2] for key, value in boxes.items()}
    assert not parity.compare('faster_rcnn', fewer, kept['faster_rcnn'])[2]
    labels = kept['upernet']['labels'].copy()
    labels.reshape(-1)[: labels.size // 50] += 1
    assert not parity.compare('upernet', {'labels': labels}, kept['upernet'])[2]

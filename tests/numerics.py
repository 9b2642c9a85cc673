"""What tests of numbers share: relative distance, and the published backbones' golden numbers."""

import json
from pathlib import Path

import numpy as np
import torch

from scsa.analysis.formula import draw, weight

GOLDEN = Path(__file__).parent / 'golden'
LANES = Path(__file__).parent / 'golden_lanes' / 'paper'  # .npz and .json


def distance(value, expected):
    """‖value - expected‖ / ‖expected‖."""
    return ((value - expected).norm() / expected.norm().clamp_min(1e-30)).item()


def randomise(module):
    """Give every parameter a value that no default hides behind: norms away from 1 and 0."""
    for name, parameter in module.named_parameters():
        centre = 1.0 if 'norm' in name and name.endswith('weight') else 0.0
        torch.nn.init.normal_(parameter, centre, 0.5)
    return module


class Golden:
    """Numbers of one published backbone; tests/golden/*.json say which, *.npz what it gave."""

    names = ('resnet18', 'resnet50', 'mobilenet_v2')

    def __init__(self, name):
        meta = json.loads((GOLDEN / f'{name}.json').read_text())
        self.backbone, self.params, self.keys = meta['backbone'], meta['params'], meta['keys']
        self.weights = {key: weight(key, tuple(shape)) for key, shape in self.keys.items()}
        self.image = draw('input', tuple(meta['input_shape']), 1.0)
        self.shapes = [tuple(shape) for shape in meta['outputs']]
        self.profiles = np.load(GOLDEN / f'{name}.npz')

    def distance(self, outputs):
        """The largest relative distance of any profile of any stage."""
        assert [tuple(out.shape) for out in outputs] == self.shapes
        return max(
            distance(profile, torch.from_numpy(self.profiles[f'stage{i}_{kind}_profile']))
            for i, out in enumerate(outputs)
            for kind, profile in (('channel', out.mean((2, 3))), ('spatial', out.mean(1)))
        )

"""What tests of numbers share: relative distance, and the published backbones' golden numbers."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / 'golden'


def distance(value, expected):
    """‖value - expected‖ / ‖expected‖."""
    return ((value - expected).norm() / expected.norm().clamp_min(1e-30)).item()


def randomise(module):
    """Give every parameter a value that no default hides behind: norms away from 1 and 0."""
    for name, parameter in module.named_parameters():
        centre = 1.0 if 'norm' in name and name.endswith('weight') else 0.0
        torch.nn.init.normal_(parameter, centre, 0.5)
    return module


def _draw(key, shape, scale, offset=0.0):
    rng = np.random.RandomState(zlib.crc32(key.encode()))
    return torch.from_numpy(offset + scale * rng.standard_normal(shape)).float()


def _weight(key, shape):
    """The weight that the golden numbers were computed with: a function of its published name."""
    if key.endswith('num_batches_tracked'):
        return torch.tensor(0)
    if key.endswith('running_mean'):
        return _draw(key, shape, 0.05)
    if key.endswith('running_var'):
        return _draw(key, shape, 0.1).abs() + 0.9
    if len(shape) == 1:
        return _draw(key, shape, 0.1, 1.0) if key.endswith('weight') else _draw(key, shape, 0.05)
    if len(shape) == 4 and shape[1] == shape[2] == 1:  # q, k, v
        return _draw(key, shape, 0.5)
    if len(shape) == 3:  # along a strip
        return _draw(key, shape, 0.4)
    if shape[1] == 1:  # depthwise
        return _draw(key, shape, 0.3)
    return _draw(key, shape, (2.0 / (shape[0] * shape[2] * shape[3])) ** 0.5)


class Golden:
    """Numbers of one published backbone; tests/golden/*.json say which, *.npz what it gave."""

    names = ('resnet18', 'resnet50', 'mobilenet_v2')

    def __init__(self, name):
        meta = json.loads((GOLDEN / f'{name}.json').read_text())
        self.backbone, self.params, self.keys = meta['backbone'], meta['params'], meta['keys']
        self.weights = {key: _weight(key, tuple(shape)) for key, shape in self.keys.items()}
        self.image = _draw('input', tuple(meta['input_shape']), 1.0)
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

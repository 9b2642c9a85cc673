"""What of a model of mmpretrain, mmdet or mmseg goes into a file: from image to plain tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = 3


class TensorsOnly(nn.Module):
    """A model of OpenMMLab that takes a batch of normalised images and gives tensors alone.

    A classifier gives its logits (B, classes), a segmentor those of all pixels (B, classes, H, W).
    A detector of one stage gives what its head says of each level, classes, then boxes, not yet
    decoded; one of two stages the maps of its neck. The rest, decoding, RoIAlign and NMS, is what
    mmdeploy rewrites.

    Args:
        model: The model, in eval mode.
        task: ``'classification'``, ``'detection'`` or ``'segmentation'``.
    """

    def __init__(self, model: nn.Module, task: str) -> None:
        super().__init__()
        self.model = model
        self.task = task

    @property
    def what(self) -> str:
        """What the outputs are, in words."""
        if self.task == 'classification':
            return 'logits of the classes'
        if self.task == 'segmentation':
            return 'logits of the classes for each pixel'
        if hasattr(self.model, 'bbox_head'):
            return 'outputs of the head by level, not decoded: decoding and NMS are left out'
        return 'maps of the neck by level: RPN, RoI heads and NMS are left out'

    def forward(self, x: Tensor):
        """(B, 3, H, W) to a tensor or a tuple of tensors."""
        if self.task == 'classification':
            return self.model(x, mode='tensor')
        features = self.model.extract_feat(x)
        if self.task == 'segmentation':
            logits = self.model.decode_head(features)
            corners = self.model.align_corners
            return F.interpolate(logits, x.shape[2:], mode='bilinear', align_corners=corners)
        if hasattr(self.model, 'bbox_head'):
            return tuple(level for kind in self.model.bbox_head(features) for level in kind)
        return tuple(features)


def takes(model: nn.Module, size: tuple[int, int]) -> bool:
    """Whether a model runs at a size: a classifying Swin refuses maps below its window."""
    try:
        with torch.no_grad():
            model(torch.zeros(1, CHANNELS, *size))
    except AssertionError:  # as mmpretrain says it
        return False
    return True


def normalisation(model: nn.Module) -> str:
    """What the data preprocessor of a model does to an image, which is not in the file."""
    preprocessor = model.data_preprocessor
    turned = ('to_rgb', '_channel_conversion', 'channel_conversion')
    order = 'RGB' if any(getattr(preprocessor, name, False) for name in turned) else 'BGR'
    if not getattr(preprocessor, '_enable_normalize', False):
        return f'{order}, 0 to 255'
    mean, std = (
        [round(value, 3) for value in getattr(preprocessor, name).flatten().tolist()]
        for name in ('mean', 'std')
    )
    return f'{order}, minus {mean}, over {std}'

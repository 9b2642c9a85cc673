"""ResNet-50 with SCSA and without in plain PyTorch, for benchmarks where OpenMMLab is missing.

The layers, their names and their order are those of ``ResNetSCSA`` with a linear classifier.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import SCSA


class Bottleneck(nn.Module):
    """1x1, 3x3, SCSA, 1x1, and the way around them."""

    def __init__(self, inputs: int, channels: int, stride: int, attention: bool) -> None:
        super().__init__()
        outputs = 4 * channels
        self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.attn = SCSA(channels) if attention else nn.Identity()
        self.conv3 = nn.Conv2d(channels, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        around = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(self.attn(out)))
        return F.relu(out + around, inplace=True)


class ResNet50(nn.Module):
    """(B, 3, H, W) -> (B, 1000); ``backbone`` alone: (B, 3, H, W) -> (B, 2048, H / 32, W / 32)."""

    def __init__(self, attention: bool) -> None:
        super().__init__()
        self.backbone = nn.Sequential()
        self.backbone.add_module('conv1', nn.Conv2d(3, 64, 7, 2, 3, bias=False))
        self.backbone.add_module('bn1', nn.BatchNorm2d(64))
        self.backbone.add_module('relu', nn.ReLU(inplace=True))
        self.backbone.add_module('maxpool', nn.MaxPool2d(3, 2, 1))
        inputs = 64
        for stage, blocks in enumerate((3, 4, 6, 3)):
            channels = 64 * 2**stage
            layer = nn.Sequential()
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layer.append(Bottleneck(inputs, channels, stride, attention))
                inputs = 4 * channels
            self.backbone.add_module(f'layer{stage + 1}', layer)
        self.fc = nn.Linear(inputs, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.backbone(x).mean((2, 3)))

# What all quick starts on the digit scenes share (docs/datasets.md says how to make the scenes).
_base_ = './published_scsa.py'

digits = tuple('0123456789')

# Half width, as in the quick start of classification, and started from random weights.
resnet18 = dict(
    type='mmpretrain.ResNet',
    depth=18,
    stem_channels=32,
    base_channels=32,
    out_indices=(0, 1, 2, 3),
)
channels = [32, 64, 128, 256]

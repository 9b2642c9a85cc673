# The ResNet whose weights our ImageNet configs train: mmseg's ResNetV1c has another stem.
_base_ = '../published_scsa.py'

resnet = dict(
    type='mmpretrain.ResNet',
    depth=50,
    out_indices=(0, 1, 2, 3),
    norm_cfg=dict(type='SyncBN', requires_grad=True),
)

# The plain baseline of fpn_r18_scenes_scsa.py: Semantic FPN on the digit scenes.
_base_ = ['mmseg::_base_/models/fpn_r50.py', '../_base_/segmentation/digit_scenes.py']
# The classifier of `make demo-compare`.
pretrained = 'work_dirs/resnet18_digits/epoch_10.pth'

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    pretrained=None,
    backbone=dict(
        _base_.resnet18,
        _delete_=True,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.'),
    ),
    neck=dict(in_channels=_base_.channels, out_channels=64),
    decode_head=dict(
        in_channels=[64] * 4,
        channels=64,
        num_classes=11,
        norm_cfg=dict(type='BN'),  # mmseg's SyncBN needs GPUs
        loss_decode=_base_.loss,
    ),
)

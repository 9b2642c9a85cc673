# The plain baseline of retinanet_r18_scenes_scsa.py: RetinaNet on the digit scenes.
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', '../_base_/detection/digit_scenes.py']

model = dict(
    backbone=dict(_base_.resnet18, _delete_=True),
    neck=dict(in_channels=_base_.channels, out_channels=64, num_outs=3),
    bbox_head=dict(
        num_classes=10,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        # Anchors of 16 to 102 pixels: the digits are 16 to 64 high, and narrower than that.
        anchor_generator=dict(octave_base_scale=2, strides=[8, 16, 32]),
    ),
)

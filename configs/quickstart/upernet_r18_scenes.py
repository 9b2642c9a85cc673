# The plain baseline of upernet_r18_scenes_scsa.py: UperNet on the digit scenes.
_base_ = ['mmseg::_base_/models/upernet_r50.py', '../_base_/segmentation/digit_scenes.py']

norm_cfg = dict(type='BN')  # mmseg's SyncBN needs GPUs
model = dict(
    data_preprocessor=dict(size=(160, 160)),
    pretrained=None,
    backbone=dict(_base_.resnet18, _delete_=True),
    decode_head=dict(in_channels=_base_.channels, channels=32, num_classes=11, norm_cfg=norm_cfg),
    auxiliary_head=dict(
        in_channels=_base_.channels[2], channels=32, num_classes=11, norm_cfg=norm_cfg
    ),
)

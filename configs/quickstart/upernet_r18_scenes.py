# The plain baseline of upernet_r18_scenes_scsa.py: UperNet on the digit scenes.
_base_ = ['mmseg::_base_/models/upernet_r50.py', '../_base_/segmentation/digit_scenes.py']
# The classifier of `make demo-compare`.
pretrained = 'work_dirs/resnet18_digits/epoch_10.pth'

norm_cfg = dict(type='BN')  # mmseg's SyncBN needs GPUs
head = dict(channels=32, num_classes=11, norm_cfg=norm_cfg, loss_decode=_base_.loss)
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    pretrained=None,
    backbone=dict(
        _base_.resnet18,
        _delete_=True,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.'),
    ),
    decode_head=dict(**head, in_channels=_base_.channels),
    auxiliary_head=dict(**head, in_channels=_base_.channels[2]),
)

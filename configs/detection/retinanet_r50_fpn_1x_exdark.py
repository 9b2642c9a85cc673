# RetinaNet, ResNet-50, ExDark: the baseline.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/detection/exdark.py',
    '../_base_/detection/retinanet_tta.py',
]
pretrained = 'checkpoints/resnet50_1xb128_in1k.pth'

model = dict(
    backbone=dict(init_cfg=dict(checkpoint=pretrained, prefix='backbone.')),
    bbox_head=dict(num_classes=_base_.num_classes),
)
optim_wrapper = dict(optimizer=dict(lr=0.01))  # mmdet's for RetinaNet

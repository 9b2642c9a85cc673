# Faster R-CNN, ResNet-50, ExDark: the baseline.
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', '../_base_/detection/exdark.py']
pretrained = 'checkpoints/resnet50_1xb128_in1k.pth'

model = dict(
    backbone=dict(init_cfg=dict(checkpoint=pretrained, prefix='backbone.')),
    roi_head=dict(bbox_head=dict(num_classes=_base_.num_classes)),
)

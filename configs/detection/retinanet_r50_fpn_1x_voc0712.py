# RetinaNet, ResNet-50, PASCAL VOC 07+12: the baseline.
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', '../_base_/detection/voc.py']
pretrained = 'checkpoints/resnet50_1xb128_in1k.pth'

model = dict(
    backbone=dict(init_cfg=dict(checkpoint=pretrained, prefix='backbone.')),
    bbox_head=dict(num_classes=_base_.num_classes),
)

# Cascade R-CNN, ResNet-50, thermal FLIR ADAS v2: the baseline.
_base_ = ['mmdet::_base_/models/cascade-rcnn_r50_fpn.py', '../_base_/detection/flir.py']
pretrained = 'checkpoints/resnet50_1xb128_in1k.pth'

model = dict(
    backbone=dict(init_cfg=dict(checkpoint=pretrained, prefix='backbone.')),
    roi_head=dict(
        bbox_head=[
            dict(head, num_classes=_base_.num_classes) for head in _base_.model.roi_head.bbox_head
        ]
    ),
)

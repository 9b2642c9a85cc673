# Faster R-CNN, ResNet-50, VisDrone2019-DET: the baseline.
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', '../_base_/detection/visdrone.py']
pretrained = 'checkpoints/resnet50_1xb128_in1k.pth'

model = dict(
    backbone=dict(init_cfg=dict(checkpoint=pretrained, prefix='backbone.')),
    roi_head=dict(bbox_head=dict(num_classes=_base_.num_classes)),
    test_cfg=dict(rcnn=dict(max_per_img=_base_.max_per_img)),
)

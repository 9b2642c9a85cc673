# Cascade R-CNN, ResNet-101, COCO: mmdet's 1x recipe, our plain ImageNet weights.
_base_ = './cascade-rcnn_r50_fpn_1x_coco.py'
pretrained = 'checkpoints/resnet101_1xb128_in1k.pth'

model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint=pretrained)))

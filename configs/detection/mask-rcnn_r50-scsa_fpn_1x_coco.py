# Mask R-CNN, ResNet-50-SCSA, COCO: the recipe of the baseline.
_base_ = './mask-rcnn_r50_fpn_1x_coco.py'
pretrained = 'checkpoints/resnet50_1xb128_in1k_scsa.pth'

model = dict(
    backbone=dict(type='ResNetSCSA', scsa_cfg=_base_.scsa_cfg, init_cfg=dict(checkpoint=pretrained))
)

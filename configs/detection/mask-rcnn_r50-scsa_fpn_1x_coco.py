# Mask R-CNN, ResNet-50-SCSA, COCO: mmdet's 1x recipe, our backbone.
_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', '../_base_/published_scsa.py']
pretrained = 'checkpoints/resnet50_1xb128_in1k_scsa.pth'

model = dict(
    backbone=dict(
        type='ResNetSCSA',
        scsa_cfg=_base_.scsa_cfg,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.'),
    )
)

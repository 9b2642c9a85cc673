# Cascade R-CNN, ResNet-101-SCSA, COCO: the recipe of the baseline.
_base_ = './cascade-rcnn_r50-scsa_fpn_1x_coco.py'
pretrained = 'checkpoints/resnet101_1xb128_in1k_scsa.pth'

model = dict(
    backbone=dict(
        depth=101,
        scsa_cfg=dict(attn_drop_ratio=0.1),  # as in its ImageNet config
        init_cfg=dict(checkpoint=pretrained),
    )
)

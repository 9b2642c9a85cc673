# Mask R-CNN, Swin-T-SCSA, COCO: the recipe of the baseline.
_base_ = './mask-rcnn_swin-t_fpn_1x_coco.py'
pretrained = 'checkpoints/swin-tiny_16xb64_in1k_scsa.pth'

model = dict(
    backbone=dict(
        type='SwinTransformerSCSA',
        position='attn',
        scsa_cfg=_base_.scsa_cfg,
        init_cfg=dict(checkpoint=pretrained),
    )
)

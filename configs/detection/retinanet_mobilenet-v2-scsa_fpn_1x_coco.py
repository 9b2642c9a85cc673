# RetinaNet, MobileNetV2-SCSA, COCO: the recipe of the baseline.
_base_ = './retinanet_mobilenet-v2_fpn_1x_coco.py'
pretrained = 'checkpoints/mobilenet-v2_1xb96_in1k_scsa.pth'

model = dict(
    backbone=dict(
        type='MobileNetV2SCSA', scsa_cfg=_base_.scsa_cfg, init_cfg=dict(checkpoint=pretrained)
    )
)

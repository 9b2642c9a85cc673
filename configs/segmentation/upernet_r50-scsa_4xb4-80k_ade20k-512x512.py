# UperNet, ResNet-50-SCSA, ADE20K, 80k iterations: the recipe of the baseline.
_base_ = './upernet_r50_4xb4-80k_ade20k-512x512.py'
pretrained = 'checkpoints/resnet50_1xb128_in1k_scsa.pth'

model = dict(
    backbone=dict(type='ResNetSCSA', scsa_cfg=_base_.scsa_cfg, init_cfg=dict(checkpoint=pretrained))
)

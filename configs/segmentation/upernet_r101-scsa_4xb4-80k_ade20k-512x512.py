# UperNet, ResNet-101-SCSA, ADE20K, 80k iterations: the recipe of the baseline.
_base_ = './upernet_r50-scsa_4xb4-80k_ade20k-512x512.py'
pretrained = 'checkpoints/resnet101_1xb128_in1k_scsa.pth'

model = dict(
    backbone=dict(
        depth=101,
        scsa_cfg=dict(attn_drop_ratio=0.1),  # as in its ImageNet config
        init_cfg=dict(checkpoint=pretrained),
    )
)

_base_ = ['./resnet101_1xb128_in1k.py', '../_base_/published_scsa.py']

scsa_cfg = dict(_base_.scsa_cfg, attn_drop_ratio=0.1)  # as published
model = dict(backbone=dict(type='ResNetSCSA', scsa_cfg=scsa_cfg))

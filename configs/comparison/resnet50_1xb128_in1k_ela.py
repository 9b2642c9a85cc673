# Efficient local attention in SCSA's place, as timm builds it.
_base_ = ['../classification/resnet50_1xb128_in1k.py', '../_base_/scsa.py']

model = dict(backbone=dict(type='ResNetSCSA', attn_cfg=dict(type='TimmAttention', name='ela')))

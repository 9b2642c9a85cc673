# A window becomes a token by its maximum.
_base_ = ['../classification/resnet50_1xb128_in1k.py', '../_base_/scsa.py']

attn_cfg = dict(type='SCSA', down_sample_mode='max_pool')
model = dict(backbone=dict(type='ResNetSCSA', attn_cfg=attn_cfg))

# Smaller windows, more tokens.
_base_ = ['../classification/resnet50_1xb128_in1k.py', '../_base_/scsa.py']

model = dict(backbone=dict(type='ResNetSCSA', attn_cfg=dict(type='SCSA', window_size=3)))

# Squeeze-and-excitation in SCSA's place, as timm builds it.
_base_ = ['../classification/mobilenet-v2_1xb96_in1k.py', '../_base_/scsa.py']

model = dict(backbone=dict(type='MobileNetV2SCSA', attn_cfg=dict(type='TimmAttention', name='se')))

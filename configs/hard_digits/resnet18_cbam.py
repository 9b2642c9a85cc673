# CBAM in SCSA's place, as timm builds it.
_base_ = './resnet18.py'

model = dict(backbone=dict(type='ResNetSCSA', attn_cfg=dict(type='TimmAttention', name='cbam')))

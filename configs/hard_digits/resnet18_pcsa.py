# The channel half of SCSA alone.
_base_ = './resnet18.py'

model = dict(backbone=dict(type='ResNetSCSA', attn_cfg=dict(type='PCSA')))

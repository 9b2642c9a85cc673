# Eight heads: each channel attends to an eighth of the channels.
_base_ = ['../classification/resnet50_1xb128_in1k.py', '../_base_/scsa.py']

model = dict(backbone=dict(type='ResNetSCSA', attn_cfg=dict(type='SCSA', head_num=8)))

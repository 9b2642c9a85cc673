# One kernel size for all four groups, the longest.
_base_ = ['../classification/resnet50_1xb128_in1k.py', '../_base_/scsa.py']

attn_cfg = dict(type='SCSA', group_kernel_sizes=(9, 9, 9, 9))
model = dict(backbone=dict(type='ResNetSCSA', attn_cfg=attn_cfg))

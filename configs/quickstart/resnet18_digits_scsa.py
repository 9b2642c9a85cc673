_base_ = ['./resnet18_digits.py', '../_base_/published_scsa.py']

model = dict(backbone=dict(type='ResNetSCSA', scsa_cfg=_base_.scsa_cfg))

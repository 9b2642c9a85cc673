_base_ = ['./resnet34_1xb128_in1k.py', '../_base_/published_scsa.py']

model = dict(backbone=dict(type='ResNetSCSA', scsa_cfg=_base_.scsa_cfg))

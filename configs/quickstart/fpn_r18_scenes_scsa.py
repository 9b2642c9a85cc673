_base_ = './fpn_r18_scenes.py'

model = dict(backbone=dict(type='ResNetSCSA', scsa_cfg=_base_.scsa_cfg))

_base_ = './fpn_r18_scenes.py'
# The classifier of `make demo`.
pretrained = 'work_dirs/resnet18_digits_scsa/epoch_10.pth'

model = dict(
    backbone=dict(type='ResNetSCSA', scsa_cfg=_base_.scsa_cfg, init_cfg=dict(checkpoint=pretrained))
)

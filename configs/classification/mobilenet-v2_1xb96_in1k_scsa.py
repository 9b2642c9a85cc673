_base_ = ['./mobilenet-v2_1xb96_in1k.py', '../_base_/published_scsa.py']

model = dict(backbone=dict(type='MobileNetV2SCSA', scsa_cfg=_base_.scsa_cfg))

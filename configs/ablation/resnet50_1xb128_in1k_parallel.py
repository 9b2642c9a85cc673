# Both halves on the same map, their mean: neither guides the other.
_base_ = ['../classification/resnet50_1xb128_in1k.py', '../_base_/scsa.py']

model = dict(backbone=dict(type='ResNetSCSA', attn_cfg=dict(type='ParallelSCSA')))

# UperNet, ResNet-101, ADE20K, 80k iterations: mmseg's recipe.
_base_ = './upernet_r50_4xb4-80k_ade20k-512x512.py'
pretrained = 'checkpoints/resnet101_1xb128_in1k.pth'

model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint=pretrained)))

# The plain baseline of resnet101_1xb128_in1k_scsa.py: the same recipe.
_base_ = '../_base_/imagenet_resnet.py'

model = dict(backbone=dict(depth=101))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic')  # as published

# The plain baseline of resnet18_1xb128_in1k_scsa.py: the same recipe.
_base_ = '../_base_/imagenet_resnet.py'

# Not published at this depth: the ResNet-50 recipe.
model = dict(backbone=dict(depth=18), head=dict(in_channels=512))

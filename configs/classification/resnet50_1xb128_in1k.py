# The plain baseline of resnet50_1xb128_in1k_scsa.py: the same recipe.
_base_ = '../_base_/imagenet_resnet.py'

# The plain baseline of mobilenet-v2_1xb96_in1k_scsa.py: the same recipe.
_base_ = '../_base_/imagenet_mobilenet_v2.py'

# The plain baseline of swin-tiny_16xb64_in1k_scsa.py: mmpretrain's recipe, 16 GPUs.
_base_ = 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'

default_hooks = dict(checkpoint=dict(save_best='auto'))
randomness = dict(seed=0)

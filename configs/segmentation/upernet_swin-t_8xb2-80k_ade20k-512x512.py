# UperNet, Swin-T, ADE20K, 80k iterations, of which mmseg has no Swin recipe.
_base_ = './upernet_swin-t_8xb2-160k_ade20k-512x512.py'

train_cfg = dict(max_iters=80000, val_interval=8000)
warm_up, decay = _base_.param_scheduler
param_scheduler = [warm_up, dict(decay, end=80000)]
default_hooks = dict(checkpoint=dict(interval=8000))

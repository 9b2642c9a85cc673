# The published ImageNet recipe of MobileNetV2: one GPU, batch 96, 400 epochs, mixed precision.
_base_ = 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'

train_dataloader = dict(batch_size=96)
val_dataloader = dict(batch_size=96)
test_dataloader = dict(batch_size=96)

# mmpretrain's learning rate, 0.045, and decay, 0.98 an epoch, are the published ones.
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic')
train_cfg = dict(max_epochs=400)  # mmpretrain: 300
auto_scale_lr = dict(base_batch_size=96)
default_hooks = dict(checkpoint=dict(save_best='auto'))
randomness = dict(seed=0)

# The published ImageNet recipe of the ResNets: one GPU, batch 128, 100 epochs.
_base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'

train_dataloader = dict(batch_size=128, num_workers=8)
val_dataloader = dict(batch_size=128, num_workers=8)
test_dataloader = dict(batch_size=128, num_workers=8)

optim_wrapper = dict(optimizer=dict(lr=0.05))  # half of mmpretrain's 0.1 for half of its batch
auto_scale_lr = dict(base_batch_size=128)
default_hooks = dict(checkpoint=dict(save_best='auto'))
randomness = dict(seed=0)

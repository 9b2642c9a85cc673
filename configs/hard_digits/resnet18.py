# The plain baseline of `make compare`: the network of the quick start on digits made hard.
_base_ = ['../quickstart/resnet18_digits.py', '../_base_/scsa.py']

data_root = 'data/hard_digits'
train_dataloader = dict(batch_size=40, dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
# Of the 600 labelled digits an epoch is 15 steps.
train_cfg = dict(max_epochs=30, val_interval=10)
param_scheduler = dict(total_steps=30)
default_hooks = dict(logger=dict(interval=15))

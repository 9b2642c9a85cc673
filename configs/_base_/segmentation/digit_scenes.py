# Digit scenes: data, a schedule for two cores, runtime.
_base_ = [
    '../digit_scenes.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/schedules/schedule_80k.py',
    'mmseg::_base_/default_runtime.py',
]

data_root = 'data/digit_scenes/ade'
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),  # and no flip: a digit is not its mirror image
]
dataset = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=('background', *_base_.digits)),
    reduce_zero_label=True,  # label 0 is the edge of a digit, where neither answer is wrong
    pipeline=pipeline,
)
loader = dict(
    batch_size=8,
    num_workers=0,  # loading takes less time than passing the images between processes
    persistent_workers=False,
    dataset=dataset,
)
train_dataloader = loader
val_dataloader = loader
test_dataloader = loader

max_iters = 1600
train_cfg = dict(max_iters=max_iters, val_interval=400)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [dict(type='OneCycleLR', eta_max=2e-3, total_steps=max_iters, by_epoch=False)]
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=400, max_keep_ckpts=2, save_best='mIoU')
)
randomness = dict(seed=0)

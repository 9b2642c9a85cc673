# Digit scenes: data, a schedule for two cores, runtime.
_base_ = [
    '../digit_scenes.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/schedules/schedule_80k.py',
    'mmseg::_base_/default_runtime.py',
]

data_root = 'data/digit_scenes/ade'
classes = ('background', *_base_.digits)
crop_size = (96, 96)
batch_size = 16
# Nearly all pixels are background and learnt at once; what is hard is to tell the digits apart.
# A sum, because the weighted mean of mmseg 1.2.2 stumbles over ignored pixels.
loss = dict(
    type='CrossEntropyLoss',
    class_weight=[0.3] + [1.0] * len(_base_.digits),
    reduction='sum',
    loss_weight=1 / (batch_size * crop_size[0] * crop_size[1]),
)

dataset = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes),
    reduce_zero_label=True,  # label 0 is the edge of a digit, where neither answer is wrong
)
read = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=True)]
# Crops that show a digit; and no flip, since a digit is not its mirror image.
crop = dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.95)
pack = dict(type='PackSegInputs')
loader = dict(
    batch_size=batch_size,
    num_workers=0,  # loading takes less time than passing the images between processes
    persistent_workers=False,
)
train_dataloader = dict(**loader, dataset=dict(**dataset, pipeline=[*read, crop, pack]))
val_dataloader = dict(**loader, dataset=dict(**dataset, pipeline=[*read, pack]))
test_dataloader = val_dataloader

max_iters = 2500
train_cfg = dict(max_iters=max_iters, val_interval=500)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    # At first all digits look alike to the network; a lower rate takes longer to get past that.
    optimizer=dict(type='AdamW', lr=3e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type='OneCycleLR', eta_max=3e-3, pct_start=0.1, total_steps=max_iters, by_epoch=False)
]
default_hooks = dict(
    logger=dict(interval=50), checkpoint=dict(interval=500, max_keep_ckpts=2, save_best='mIoU')
)
randomness = dict(seed=0)

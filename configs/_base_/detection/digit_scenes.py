# Digit scenes: data, a schedule for two cores, runtime.
_base_ = [
    '../digit_scenes.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/default_runtime.py',
]

data_root = 'data/digit_scenes/'
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(160, 160)),  # their size; mmdet cannot predict without this step
    dict(type='PackDetInputs'),  # and no flip: a digit is not its mirror image
]
train_dataloader = dict(
    batch_size=16,
    num_workers=0,  # loading takes less time than passing the images between processes
    persistent_workers=False,
    batch_sampler=None,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=_base_.digits),
        filter_cfg=dict(min_size=0),
        pipeline=pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        metainfo=dict(classes=_base_.digits),
        pipeline=pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json', metric='bbox')
test_evaluator = val_evaluator

epochs = 10
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10),
)
param_scheduler = dict(
    type='OneCycleLR', eta_max=2e-3, total_steps=epochs, by_epoch=True, convert_to_iter_based=True
)
default_hooks = dict(logger=dict(interval=10))
randomness = dict(seed=0)

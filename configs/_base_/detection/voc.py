# PASCAL VOC 07+12: data, schedule and runtime of mmdet's pascal_voc configs.
_base_ = [
    'mmdet::_base_/datasets/voc0712.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
    '../published_scsa.py',
]
num_classes = 20

# The data set is repeated three times an epoch, so this is 1x too.
train_cfg = dict(max_epochs=4)
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=4, by_epoch=True, milestones=[3], gamma=0.1)
]
optim_wrapper = dict(optimizer=dict(lr=0.01))

# Thermal FLIR ADAS v2: data, mmdet's 1x schedule and runtime.
_base_ = [
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
    '../published_scsa.py',
]
data_root = 'data/flir/'
classes = (
    'person',
    'bike',
    'car',
    'motor',
    'bus',
    'truck',
    'light',
    'hydrant',
    'sign',
    'other vehicle',
)
num_classes = len(classes)

train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='images_thermal_train/'),
        metainfo=dict(classes=classes),
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='images_thermal_val/'),
        metainfo=dict(classes=classes),
    )
)
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_dataloader = val_dataloader
test_evaluator = val_evaluator

# ExDark: data, mmdet's 1x schedule and runtime.
_base_ = [
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
    '../published_scsa.py',
]
data_root = 'data/exdark/'
classes = (
    'Bicycle',
    'Boat',
    'Bottle',
    'Bus',
    'Car',
    'Cat',
    'Chair',
    'Cup',
    'Dog',
    'Motorbike',
    'People',
    'Table',
)
num_classes = len(classes)

train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='ExDark/'),
        metainfo=dict(classes=classes),
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='ExDark/'),
        metainfo=dict(classes=classes),
    )
)
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_dataloader = dict(
    dataset=dict(val_dataloader['dataset'], ann_file='annotations/instances_test.json')
)
test_evaluator = dict(ann_file=data_root + 'annotations/instances_test.json')

# VisDrone2019-DET: data, mmdet's 1x schedule and runtime.
_base_ = [
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
    '../published_scsa.py',
]
data_root = 'data/visdrone/'
classes = (
    'pedestrian',
    'people',
    'bicycle',
    'car',
    'van',
    'truck',
    'tricycle',
    'awning-tricycle',
    'bus',
    'motor',
)
num_classes = len(classes)
# As many as the own evaluation of the data set looks at; a scene may hold more than COCO's 100.
max_per_img = 500

train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='VisDrone2019-DET-train/images/'),
        metainfo=dict(classes=classes),
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='VisDrone2019-DET-val/images/'),
        metainfo=dict(classes=classes),
    )
)
val_evaluator = dict(
    ann_file=data_root + 'annotations/instances_val.json',
    proposal_nums=(10, 100, max_per_img),
    use_mp_eval=True,  # pycocotools' own summary counts 100 detections, mmdet's the last number
)
test_dataloader = val_dataloader
test_evaluator = val_evaluator

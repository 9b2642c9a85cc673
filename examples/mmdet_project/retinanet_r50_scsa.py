# mmdet's RetinaNet with SCSA in its ResNet-50, for your own data in COCO's form.
custom_imports = dict(imports=['scsa'], allow_failed_imports=False)
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'

classes = ('cat', 'dog')
model = dict(
    backbone=dict(
        plugins=[dict(cfg=dict(type='SCSA'), stages=(True,) * 4, position='after_conv2')],
        # The weights are those of the plain ResNet: with SCSA new, nothing can stay frozen.
        frozen_stages=-1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
    ),
    bbox_head=dict(num_classes=len(classes)),
)

data_root = 'data/pets/'
train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=dict(classes=classes),
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
    )
)
val_dataloader = test_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=dict(classes=classes),
        ann_file='annotations/val.json',
        data_prefix=dict(img='val/'),
    )
)
val_evaluator = test_evaluator = dict(ann_file=data_root + 'annotations/val.json')

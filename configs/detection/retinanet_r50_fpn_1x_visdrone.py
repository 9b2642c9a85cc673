# RetinaNet, ResNet-50, VisDrone2019-DET: the baseline.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/detection/visdrone.py',
    '../_base_/detection/retinanet_tta.py',
]
pretrained = 'checkpoints/resnet50_1xb128_in1k.pth'

model = dict(
    backbone=dict(init_cfg=dict(checkpoint=pretrained, prefix='backbone.')),
    bbox_head=dict(num_classes=_base_.num_classes),
    test_cfg=dict(max_per_img=_base_.max_per_img),
)
optim_wrapper = dict(optimizer=dict(lr=0.01))  # mmdet's for RetinaNet
tta_model = dict(tta_cfg=dict(max_per_img=_base_.max_per_img))

# Semantic FPN, ResNet-50, ADE20K, 160k iterations: mmseg's recipe.
_base_ = [
    'mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py',
    '../_base_/segmentation/resnet.py',
]
pretrained = 'checkpoints/resnet50_1xb128_in1k.pth'

model = dict(
    pretrained=None,
    backbone=dict(
        _base_.resnet,
        _delete_=True,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.'),
    ),
)

# RetinaNet, MobileNetV2, COCO: mmdet's 1x recipe of RetinaNet, which has no such config.
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/published_scsa.py']
pretrained = 'checkpoints/mobilenet-v2_1xb96_in1k.pth'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.MobileNetV2',
        out_indices=(1, 2, 4, 6),  # the last block at each stride from 4 to 32
        frozen_stages=1,  # the stem and the first stage, as in the ResNet configs
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.'),
    ),
    neck=dict(in_channels=[24, 32, 96, 320]),
)

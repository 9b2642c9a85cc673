# Mask R-CNN, Swin-T, COCO: mmdet's 1x recipe, our plain ImageNet weights.
_base_ = ['mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py', '../_base_/published_scsa.py']
pretrained = 'checkpoints/swin-tiny_16xb64_in1k.pth'

model = dict(
    backbone=dict(
        _delete_=True,  # the parent of our Swin, which has other arguments than mmdet's
        type='mmpretrain.SwinTransformer',
        arch='tiny',
        drop_path_rate=0.2,
        out_indices=(0, 1, 2, 3),
        pad_small_map=True,  # maps here have any size: pad them to whole windows, as mmdet's Swin
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.'),
    )
)

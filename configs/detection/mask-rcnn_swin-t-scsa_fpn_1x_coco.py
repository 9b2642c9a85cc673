# Mask R-CNN, Swin-T-SCSA, COCO: mmdet's 1x recipe, our backbone.
_base_ = ['mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py', '../_base_/published_scsa.py']
pretrained = 'checkpoints/swin-tiny_16xb64_in1k_scsa.pth'

model = dict(
    backbone=dict(
        _delete_=True,  # mmpretrain's Swin, our parent, has other arguments than mmdet's
        type='SwinTransformerSCSA',
        position='attn',
        scsa_cfg=_base_.scsa_cfg,
        arch='tiny',
        drop_path_rate=0.2,
        out_indices=(0, 1, 2, 3),
        pad_small_map=True,  # maps here have any size: pad them to whole windows, as mmdet's Swin
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.'),
    )
)

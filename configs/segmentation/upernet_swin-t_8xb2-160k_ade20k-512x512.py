# UperNet, Swin-T, ADE20K, 160k iterations: mmseg's recipe, our plain ImageNet weights.
_base_ = [
    'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
    '../_base_/published_scsa.py',
]
pretrained = 'checkpoints/swin-tiny_16xb64_in1k.pth'

model = dict(
    backbone=dict(
        _delete_=True,  # the parent of our Swin, which has other arguments than mmseg's
        type='mmpretrain.SwinTransformer',
        arch='tiny',
        drop_path_rate=0.3,
        out_indices=(0, 1, 2, 3),
        pad_small_map=True,  # maps here have any size: pad them to whole windows, as mmseg's Swin
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.'),
    )
)

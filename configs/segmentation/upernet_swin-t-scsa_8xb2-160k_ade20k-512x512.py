# UperNet, Swin-T-SCSA, ADE20K, 160k iterations: the recipe of the baseline.
_base_ = './upernet_swin-t_8xb2-160k_ade20k-512x512.py'
pretrained = 'checkpoints/swin-tiny_16xb64_in1k_scsa.pth'

model = dict(
    backbone=dict(
        type='SwinTransformerSCSA',
        position='attn',
        scsa_cfg=_base_.scsa_cfg,
        init_cfg=dict(checkpoint=pretrained),
    )
)

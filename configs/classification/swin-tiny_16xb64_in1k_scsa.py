# No Swin recipe was published: mmpretrain's, and the place of SCSA is our reading.
_base_ = ['./swin-tiny_16xb64_in1k.py', '../_base_/published_scsa.py']

model = dict(backbone=dict(type='SwinTransformerSCSA', position='attn', scsa_cfg=_base_.scsa_cfg))

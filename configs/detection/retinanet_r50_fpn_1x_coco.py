# RetinaNet, ResNet-50, COCO: mmdet's 1x recipe, our plain ImageNet weights.
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/published_scsa.py']
pretrained = 'checkpoints/resnet50_1xb128_in1k.pth'

model = dict(backbone=dict(init_cfg=dict(checkpoint=pretrained, prefix='backbone.')))

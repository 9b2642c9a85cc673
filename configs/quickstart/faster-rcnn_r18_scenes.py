# The plain baseline of faster-rcnn_r18_scenes_scsa.py: Faster R-CNN on the digit scenes.
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', '../_base_/detection/digit_scenes.py']

model = dict(
    backbone=dict(_base_.resnet18, _delete_=True),
    neck=dict(in_channels=_base_.channels, out_channels=64, num_outs=4),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        # Anchors of 16 to 128 pixels: the digits are 16 to 64 high, and narrower than that.
        anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=10),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
)

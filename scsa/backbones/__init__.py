"""SCSA inside the backbones of OpenMMLab; importing this registers them in the root ``MODELS``."""

from .mobilenet_v2 import MobileNetV2SCSA
from .resnet import ResNetSCSA
from .swin import SwinTransformerSCSA

__all__ = ['MobileNetV2SCSA', 'ResNetSCSA', 'SwinTransformerSCSA']

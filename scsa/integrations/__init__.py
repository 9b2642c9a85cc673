"""SCSA in packages beside OpenMMLab. Nothing here is imported by ``import scsa``."""

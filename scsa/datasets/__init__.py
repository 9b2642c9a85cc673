"""Converters to COCO, and the embedded digit scenes. No OpenMMLab package is imported here.

The configs read the results with mmdet's `CocoDataset` and mmseg's `BaseSegDataset`; the class
names that go into their `metainfo` are each module's `CLASSES`.
"""

"""Converters to COCO, the embedded digits and digit scenes, and the check of any data set.

The converters import no OpenMMLab package; the check does. The configs read what they write with
mmdet's `CocoDataset` and mmseg's `BaseSegDataset`; the class names that go into their `metainfo`
are each module's `CLASSES`.
"""

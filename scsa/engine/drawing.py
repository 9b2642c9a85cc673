"""Drawing of a classifier's predictions under test-time augmentation; needs mmpretrain."""

from __future__ import annotations

from mmengine.registry import HOOKS
from mmpretrain.engine.hooks import VisualizationHook


@HOOKS.register_module()
class FirstViewVisualizationHook(VisualizationHook):
    """Draw on the first view of each image; the parent takes the list of views for the images."""

    def after_test_iter(self, runner, batch_idx, data_batch, outputs) -> None:
        first = dict(data_batch, inputs=data_batch['inputs'][0])
        super().after_test_iter(runner, batch_idx, first, outputs)

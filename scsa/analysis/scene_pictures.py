"""Draws what a detector or a segmentation model sees in the first images of its test set."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.image import imread
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import load_checkpoint
from mmengine.structures import InstanceData

from .complexity import build

SCORE = 0.5  # boxes below it are not drawn
ROOM = 9  # pixels that a name takes; nearer to the upper edge it stands inside its box
IGNORED = 255  # mmseg's label of pixels that count for nothing


def draw(cfg: Config, checkpoint: Path, out: Path, count: int) -> None:
    """Draws the truth above the prediction, for each of the first `count` images.

    Args:
        cfg: A config of mmdet or mmseg.
        checkpoint: Weights of its model.
        out: The picture.
        count: How many images.
    """
    model = build(cfg)
    load_checkpoint(model, str(checkpoint), map_location='cpu')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    count = min(count, len(dataset))
    figure, axes = plt.subplots(
        2, count, figsize=(1.7 * count, 3.7), squeeze=False, layout='constrained'
    )
    for column, (above, below) in enumerate(axes.T):
        item = dataset[column]
        batch = dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
        with torch.no_grad():
            (sample,) = model.test_step(batch)
        for axis in (above, below):
            axis.imshow(imread(sample.img_path))
            axis.axis('off')
        if 'pred_sem_seg' in sample:
            draw_labels(above, sample.gt_sem_seg.data)
            draw_labels(below, sample.pred_sem_seg.data)
        else:
            names = dataset.metainfo['classes']
            found = sample.pred_instances
            draw_boxes(above, sample.gt_instances, names)
            draw_boxes(below, found[found.scores >= SCORE], names)
    axes[0, 0].set_title('truth', loc='left', fontsize=9)
    axes[1, 0].set_title('predicted', loc='left', fontsize=9)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)  # inches
    figure.savefig(out, dpi=120)
    plt.close(figure)


def draw_labels(axis: Axes, labels: torch.Tensor) -> None:
    """Tints a label map (1, H, W) by class; class 0, the background, and ignored pixels stay."""
    labels = labels[0].numpy()
    hidden = (labels == 0) | (labels == IGNORED)
    colours = plt.get_cmap('tab10')((labels - 1) % 10)
    colours[..., 3] = np.where(hidden, 0, 0.85)
    axis.imshow(colours)


def draw_boxes(axis: Axes, instances: InstanceData, names: Sequence[str]) -> None:
    """Draws boxes with the names of their classes and, of predictions, the scores."""
    for i, (x1, y1, x2, y2) in enumerate(instances.bboxes.numpy()):
        colour = plt.get_cmap('tab10')(int(instances.labels[i]) % 10)
        axis.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour))
        score = f' {instances.scores[i]:.2f}' if 'scores' in instances else ''
        axis.text(
            *(x1, y1, names[instances.labels[i]] + score),
            fontsize=6,
            color='white',
            verticalalignment='bottom' if y1 > ROOM else 'top',
            bbox=dict(facecolor=colour, edgecolor='none', pad=0.6),
            clip_on=True,
        )

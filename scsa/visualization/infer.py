"""Predictions of a model for images: drawn, and as plain values for JSON."""

from __future__ import annotations

import tempfile
from pathlib import Path

import mmcv
import numpy as np
from pycocotools import mask as coco_mask

from .images import Images, unique_stems
from .models import LoadedModel
from .output import save_json

LEAST_SIDE = 224  # a smaller image is enlarged, so that mmpretrain's text has room on it


def predict(model: LoadedModel, path: Path, threshold: float = 0.3) -> tuple[dict, np.ndarray]:
    """What a model says of an image, by the inferencer of its package.

    Args:
        model: For any of the three tasks.
        path: The image.
        threshold: Boxes of a lower score are not drawn; all are in the prediction.

    Returns:
        The prediction, as :func:`classified`, :func:`detected` and :func:`segmented` describe it,
        and the drawn image (height, width, 3) uint8, RGB.
    """
    infer, source = model.inferencer, [str(path)]
    if model.task == 'classification':
        small = min(mmcv.imread(str(path)).shape[:2]) < LEAST_SIDE
        with tempfile.TemporaryDirectory() as folder:  # it draws only to write
            predictions = infer(source, show_dir=folder, resize=LEAST_SIDE if small else None)
            drawn = mmcv.imread(str(next(Path(folder).iterdir())))[..., ::-1]
        return classified(model, predictions[0]), drawn
    if model.task == 'detection':
        result = infer(source, return_vis=True, pred_score_thr=threshold)
        return detected(model, result['predictions'][0]), result['visualization'][0]
    result = infer(source, return_vis=True)
    return segmented(model, result['predictions']), result['visualization']


def classified(model: LoadedModel, result: dict) -> dict:
    """``label``, ``class`` and ``score`` of the best class, and ``scores`` of all."""
    label = int(result['pred_label'])
    return {
        'label': label,
        'class': model.class_name(label),
        'score': float(result['pred_score']),
        'scores': np.asarray(result['pred_scores']).tolist(),
    }


def detected(model: LoadedModel, result: dict) -> dict:
    """``boxes``, the best first, each with ``label``, ``class``, ``score`` and ``box``.

    A box is x1, y1, x2, y2 in pixels of the image. Of a model with masks each has ``mask`` too, in
    COCO's run-length code: ``pycocotools.mask.decode`` gives the pixels.
    """
    boxes = []
    for i, label in enumerate(result['labels']):
        box = {
            'label': label,
            'class': model.class_name(label),
            'score': result['scores'][i],
            'box': result['bboxes'][i],
        }
        if 'masks' in result:
            box['mask'] = result['masks'][i]
        boxes.append(box)
    return {'boxes': boxes}


def segmented(model: LoadedModel, labels: np.ndarray) -> dict:
    """``segments``, the largest first, each with ``label``, ``class``, ``share`` and ``mask``.

    ``share`` is that of the pixels of the image; ``mask`` as in :func:`detected`.
    """
    segments = []
    for label in np.unique(labels):
        pixels = labels == label
        mask = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
        mask['counts'] = mask['counts'].decode()
        label = int(label)
        name, share = model.class_name(label), float(pixels.mean())
        segments.append({'label': label, 'class': name, 'share': share, 'mask': mask})
    return {'segments': sorted(segments, key=lambda one: -one['share'])}


def write(model: LoadedModel, images: Images, out: Path, threshold: float) -> Path:
    """Predict for images, draw each into ``OUT/drawn`` and write ``OUT/predictions.json``.

    Args:
        model: For any of the three tasks.
        images: To go through.
        out: The folder to write to.
        threshold: Boxes of a lower score are not drawn.

    Returns:
        The JSON: ``task``, ``classes``, ``skipped``, and ``images``, each with ``image``,
        ``height``, ``width``, ``drawn``, and its prediction.
    """
    rows, stems = [], unique_stems(images.paths)
    for path, image in images:
        prediction, drawn = predict(model, path, threshold)
        target = out / 'drawn' / f'{stems[path]}.png'
        mmcv.imwrite(drawn[..., ::-1], str(target))
        height, width = image.shape[:2]
        row = {'image': path, 'height': height, 'width': width, 'drawn': target.relative_to(out)}
        rows.append({**row, **prediction})
    content = {'task': model.task, 'classes': model.classes}
    content.update(skipped=images.skipped, images=rows)
    return save_json(out / 'predictions.json', content)

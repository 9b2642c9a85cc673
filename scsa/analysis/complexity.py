"""Size and cost of the model of a config, at the input that the config itself prepares."""

from __future__ import annotations

from typing import Iterator

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope

from ..cli import UserError


def standard_input(cfg: Config) -> tuple[int, int]:
    """Height and width of the image that the network sees in training, landscape format.

    That is the size to which the data preprocessor pads, else what the pipeline resizes or crops
    to, rounded up as the preprocessor does.

    Raises:
        UserError: if neither says so.
    """
    preprocessor = {
        **(cfg.get('data_preprocessor') or {}),
        **cfg.model.get('data_preprocessor', {}),
    }
    if preprocessor.get('size'):
        return tuple(preprocessor['size'])
    for step in reversed(list(_steps(cfg.train_dataloader.dataset))):
        scale = step.get('scale', step.get('crop_size'))
        if scale is not None:
            break
    else:
        raise UserError('the training pipeline of the config does not say how large an image is')
    width, height = (scale, scale) if isinstance(scale, int) else (max(scale), min(scale))
    divisor = preprocessor.get('pad_size_divisor', 1)
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def _steps(dataset: dict) -> Iterator[dict]:
    yield from dataset.get('pipeline', ())
    for inner in dataset.get('datasets', [dataset['dataset']] if 'dataset' in dataset else []):
        yield from _steps(inner)


def build(cfg: Config) -> torch.nn.Module:
    """Build the model of a config without loading weights."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(_on_one_device(cfg.model)).eval()


def _on_one_device(node):
    """A copy with BN for SyncBN, which needs GPUs and has the same size and cost."""
    if isinstance(node, dict):
        pairs = ConfigDict({key: _on_one_device(value) for key, value in node.items()})
        return ConfigDict(pairs, type='BN') if pairs.get('type') == 'SyncBN' else pairs
    return [_on_one_device(item) for item in node] if isinstance(node, list) else node


def count_parameters(model: torch.nn.Module) -> int:
    """The number of parameters, those of the heads included."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: torch.nn.Module, height: int, width: int) -> int:
    """Multiply-adds for one image, each counted once, as the model zoos of OpenMMLab count them.

    Operators that mmengine's analysis does not know count nothing: elementwise ones, RoIAlign,
    NMS. SCSA is counted in its plain composition, whose products and convolutions it knows.
    """
    options = {}
    if hasattr(model, 'bbox_head') or hasattr(model, 'roi_head'):  # mmdet's ask for the size
        from mmdet.structures import DetDataSample

        shapes = dict.fromkeys(('img_shape', 'ori_shape', 'batch_input_shape'), (height, width))
        options['data_samples'] = [DetDataSample(metainfo=dict(shapes, scale_factor=(1.0, 1.0)))]
    analyzer = FlopAnalyzer(_Forward(model, options), torch.randn(1, 3, height, width))
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with torch.no_grad():
        return analyzer.total()


class _Forward(torch.nn.Module):
    """Nothing but the raw outputs of a model, as tracing needs it."""

    def __init__(self, model: torch.nn.Module, options: dict):
        super().__init__()
        self.model = model
        self.options = options

    def forward(self, image: torch.Tensor):
        return self.model(image, mode='tensor', **self.options)

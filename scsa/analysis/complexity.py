"""Size and cost of the model of a config, at the input that the config itself prepares."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Iterator, NamedTuple
from unittest import mock

import torch
from mmengine.analysis import ActivationAnalyzer, FlopAnalyzer
from mmengine.analysis.jit_handles import get_shape
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
        raise UserError(
            'the training pipeline of the config does not say how large an image is; give --shape'
        )
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


# What mmengine's analysis counts nothing for. One for each value of the result:
ELEMENTWISE = (
    *('add', 'add_', 'sub', 'rsub', 'mul', 'mul_', 'div', 'div_', 'neg', 'exp', 'sqrt', 'pow'),
    *('relu', 'relu_', 'hardtanh', 'hardtanh_', 'leaky_relu', 'leaky_relu_', 'gelu', 'silu'),
    *('silu_', 'sigmoid', 'sigmoid_', 'hardsigmoid', 'hardsigmoid_', 'hardswish', 'hardswish_'),
    *('tanh', 'softmax', 'log_softmax'),
)
# One for each value of the input:
POOLING = ('mean', 'sum', 'avg_pool1d', 'avg_pool2d', 'max_pool2d', 'adaptive_max_pool2d')
# Products of two maps, as in the attentions of transformers; no weight takes part in them.
PRODUCTS = ('matmul', 'bmm', 'einsum', 'scaled_dot_product_attention')
LAYERS = ('conv', 'linear', 'addmm', 'mm', 'batch_norm', 'group_norm', 'layer_norm',
          'instance_norm', 'upsample_nearest2d', 'upsample_bilinear2d', 'adaptive_avg_pool2d',
          'grid_sampler')  # fmt: skip


class Flops(NamedTuple):
    """Multiply-adds for one image, each counted once."""

    layers: int = 0  # convolutions, linear layers, norms, resizing
    products: int = 0  # of two maps
    elementwise: int = 0  # activations, sums and products of equal shapes, pooling

    @property
    def total(self) -> int:
        """What mmengine counts, and the tables of our docs give."""
        return self.layers + self.products

    @property
    def as_published(self) -> int:
        """What mmpretrain's published tables counted: activations, but no products of two maps."""
        return self.layers + self.elementwise


class Complexity(NamedTuple):
    """Size and cost of a model, and of each module in it by its name (the model's is '')."""

    parameters: dict[str, int]
    flops: dict[str, Flops]
    activations: dict[str, int]  # values that convolutions, linear layers and products give
    classes: dict[str, str]
    not_counted: list[str]  # operators to which none of this ascribes a cost


def count_flops(model: torch.nn.Module, height: int, width: int) -> int:
    """Multiply-adds for one image, each counted once, as the model zoos of OpenMMLab count them.

    Operators that mmengine's analysis does not know count nothing: elementwise ones, pooling,
    RoIAlign, NMS; see :func:`analyze` for the first two.
    """
    return analyze(model, height, width).flops[''].total


def analyze(model: torch.nn.Module, height: int, width: int) -> Complexity:
    """Count what a model is and does for one image.

    SCSA is counted in its plain composition, which gives the numbers of every path of it.
    """
    options = {}
    if hasattr(model, 'bbox_head') or hasattr(model, 'roi_head'):  # mmdet's ask for the size
        from mmdet.structures import DetDataSample

        shapes = dict.fromkeys(('img_shape', 'ori_shape', 'batch_input_shape'), (height, width))
        options['data_samples'] = [DetDataSample(metainfo=dict(shapes, scale_factor=(1.0, 1.0)))]
    inputs = _Forward(model, options), torch.randn(1, 3, height, width)
    flops, activations = FlopAnalyzer(*inputs), ActivationAnalyzer(*inputs)
    flops.set_op_handle(
        'aten::scaled_dot_product_attention', _fused_attention,
        **{f'aten::{name}': _per_output for name in ELEMENTWISE},
        **{f'aten::{name}': _per_input for name in POOLING},
    )  # fmt: skip
    activations.set_op_handle('aten::scaled_dot_product_attention', _per_output)
    # Steps that are scripted when they are traced would be one operator of unknown cost.
    with torch.no_grad(), mock.patch('torch.jit._trace.script', lambda function: function):
        for analyzer in (flops, activations):
            analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            analyzer.total()
    modules = dict(model.named_modules())

    def own(counts: dict) -> dict:
        """Without the wrapper around the model."""
        return {name: counts[f'model.{name}'.rstrip('.')] for name in modules}

    return Complexity(
        {name: count_parameters(module) for name, module in modules.items()},
        {n: _by_kind(count) for n, count in own(flops.by_module_and_operator()).items()},
        own(activations.by_module()),
        {name: type(module).__name__ for name, module in modules.items()},
        sorted(name.split('::')[-1] for name in flops.unsupported_ops()),
    )


def _by_kind(counts: dict[str, int]) -> Flops:
    layers = sum(n for name, n in counts.items() if name in LAYERS)
    products = sum(n for name, n in counts.items() if name in PRODUCTS)
    return Flops(layers, products, sum(counts.values()) - layers - products)


def _per_output(inputs: list, outputs: list) -> int:
    return prod(get_shape(outputs[0]) or [0])  # sizes that are reckoned with are no values


def _per_input(inputs: list, outputs: list) -> int:
    return prod(get_shape(inputs[0]) or [0])


def _fused_attention(inputs: list, outputs: list) -> Counter:
    query, key, value = (get_shape(one) for one in inputs[:3])
    weights = prod(query[:-1]) * key[-2]
    products = weights * (query[-1] + value[-1])
    return Counter(scaled_dot_product_attention=products, softmax=weights)


class _Forward(torch.nn.Module):
    """Nothing but the raw outputs of a model, as tracing needs it."""

    def __init__(self, model: torch.nn.Module, options: dict):
        super().__init__()
        self.model = model
        self.options = options

    def forward(self, image: torch.Tensor):
        return self.model(image, mode='tensor', **self.options)


def tables(found: dict[str, Complexity], sizes: dict[str, tuple[int, int]]) -> str:
    """A line for each config, with what it has more than the first, as Markdown."""
    lines = [
        '| config | input | parameters | GFLOPs | elementwise, pooling | as mmpretrain publishes |'
        ' activations (M) |',
        '|---|---:|---:|---:|---:|---:|---:|',
    ]
    first = _figures(next(iter(found.values())))
    for number, (name, one) in enumerate(found.items()):
        cells = []
        for value, base, form in zip(_figures(one), first, (',', '.3f', '.4f', '.3f', '.2f')):
            more = f' ({value - base:+{form}})' if number else ''
            cells.append(f'{value:{form}}{more}')
        height, width = sizes[name]
        lines.append(f'| {name} | {height} × {width} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def _figures(one: Complexity) -> tuple:
    flops = one.flops['']
    gflops = (flops.total / 1e9, flops.elementwise / 1e9, flops.as_published / 1e9)
    return one.parameters[''], *gflops, one.activations[''] / 1e6


def tree(one: Complexity, depth: int) -> str:
    """The modules of a model down to a depth, each with all below it; none that costs nothing."""
    lines = [
        f'{"module":48} {"parameters":>12} {"MFLOPs":>10} {"elementwise":>11} {"activations":>11}'
    ]
    for name, flops in one.flops.items():
        level = name.count('.') + 1 if name else 0
        if level > depth or not (one.parameters[name] or flops.total or flops.elementwise):
            continue
        text = f'{"  " * level}{name.rsplit(".", 1)[-1]} {one.classes[name]}'
        lines.append(
            f'{text:48} {one.parameters[name]:12,} {flops.total / 1e6:10.2f} '
            f'{flops.elementwise / 1e6:11.3f} {one.activations[name]:11,}'
        )
    return '\n'.join(lines)

"""Find layers by name, and read what they give as a map."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from ..cli import UserError


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """The layer of that name, as ``named_modules`` calls it.

    Raises:
        UserError: There is none; names the nearest.
    """
    layers = dict(model.named_modules())
    if name in layers and name:
        return layers[name]
    names = [known for known in layers if known]
    near = [known for known in names if known.endswith(f'.{name}')][:3]
    near = near or get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
    raise UserError(f'no layer is called {name!r}; near it: {", ".join(near)}')


def stage_ends(model: nn.Module) -> list[str]:
    """The name of the last block of each stage of the backbone, the last stage last.

    Known are backbones that keep their stages in ``res_layers`` (ResNet), ``stages`` (Swin,
    ConvNeXt) or ``layers`` (MobileNetV2; a ViT has blocks there, and counts as one stage).

    Raises:
        UserError: The backbone is built otherwise.
    """
    backbone = getattr(model, 'backbone', model)
    prefix = '' if backbone is model else 'backbone.'
    for attribute in ('res_layers', 'stages', 'layers'):
        stages = getattr(backbone, attribute, None)
        if stages is None:
            continue
        if isinstance(stages, nn.ModuleList):
            names = [f'{attribute}.{i}' for i in range(len(stages))]
        else:
            names = list(stages)  # ResNet and MobileNetV2 keep names
        ends = []
        for name in names:
            name = f'{name}.blocks' if hasattr(backbone.get_submodule(name), 'blocks') else name
            blocks = backbone.get_submodule(name)
            if isinstance(blocks, (nn.Sequential, nn.ModuleList)) and len(blocks):
                ends.append(f'{prefix}{name}.{len(blocks) - 1}')
        if ends or names:
            return ends or [f'{prefix}{names[-1]}']
    raise UserError(f'where the stages of {type(backbone).__name__} end is not known; give --layer')


class MapRecorder:
    """While it is entered, keeps what layers give, as maps.

    ::

        with MapRecorder(model, ['backbone.layer4.1']) as maps:
            model.extract_feat(inputs)
        maps['backbone.layer4.1']  # (B, C, H, W)

    Args:
        model: The network.
        names: Of its layers.

    Raises:
        UserError: see :func:`find_layer`, and :func:`to_map` when the network runs.
    """

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        self.layers = {name: find_layer(model, name) for name in names}

    def __enter__(self) -> dict[str, Tensor]:
        maps = {}

        def hook(name: str):
            def keep(layer, inputs, output):
                maps[name] = to_map(output, inputs, name)

            return keep

        self.handles = [
            layer.register_forward_hook(hook(name)) for name, layer in self.layers.items()
        ]
        return maps

    def __exit__(self, *_: Any) -> None:
        for handle in self.handles:
            handle.remove()


def to_map(output: Any, inputs: tuple, name: str) -> Tensor:
    """What a layer gives, as (B, C, H, W); tokens (B, H * W, C) are laid out.

    How high and wide their map is, a block of Swin is told beside the tokens; of others it must be
    square.

    Args:
        output: What the layer gave; of several things the last, as a backbone gives its stages.
        inputs: What it was given.
        name: The layer's name, for the error.

    Raises:
        UserError: It gave neither a map nor such tokens.
    """
    if isinstance(output, (tuple, list)) and output:
        output = output[-1]
    if isinstance(output, Tensor) and output.dim() == 4:
        return output
    if isinstance(output, Tensor) and output.dim() == 3:
        size = token_grid(inputs, output.size(1))
        if size:
            return output.transpose(1, 2).unflatten(2, size)
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise UserError(f'layer {name!r} gives no feature map but {shape}; give another --layer')


def token_grid(inputs: tuple, count: int) -> tuple[int, int] | None:
    """Height and width of the map whose tokens a layer takes, or None if nothing tells."""
    for value in inputs:
        if isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_is_int, value)):
            height, width = (int(side) for side in value)
            if height * width == count:
                return height, width
    side = round(count**0.5)
    return (side, side) if side * side == count else None


def _is_int(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, Tensor) and value.dim() == 0)


def blocks(model: nn.Module) -> list[str]:
    """The names of all blocks of all stages of the backbone; see :func:`stage_ends`."""
    found = []
    for end in stage_ends(model):
        stage, _, last = end.rpartition('.')
        found += [f'{stage}.{i}' for i in range(int(last) + 1)] if last.isdigit() else [end]
    return found

"""The attention that a backbone takes: SCSA, or any layer of the registry in its place."""

import inspect
from typing import Dict, Optional

from mmengine.registry import MODELS
from mmpretrain.models.utils import SELayer
from torch import nn

from ..attention import SCSA

UNREGISTERED = {'SELayer': SELayer}  # mmpretrain's, which it registers nowhere


def build_attention(
    channels: int, attn_cfg: Optional[Dict] = None, scsa_cfg: Optional[Dict] = None
) -> nn.Module:
    """Build the attention of one block.

    Args:
        channels: Number of channels C of the map.
        attn_cfg: ``dict(type=…)`` with the other arguments of that layer. It must map
            (B, C, H, W) to the same shape, and take C as ``in_channels`` or as its first argument.
        scsa_cfg: The short form: arguments of :class:`scsa.SCSA` but ``dim``.

    Raises:
        ValueError: if both are given, or if no such layer is registered.
    """
    if attn_cfg is None:
        return SCSA(channels, **(scsa_cfg or {}))
    if scsa_cfg is not None:
        raise ValueError(
            'attn_cfg and scsa_cfg are both given; set scsa_cfg=None, '
            "or write attn_cfg=dict(type='SCSA', …) alone"
        )
    cfg = dict(attn_cfg)
    kind = cfg.pop('type', None)
    layer = kind if inspect.isclass(kind) else find_layer(kind)
    if 'in_channels' in inspect.signature(layer).parameters:
        return layer(in_channels=channels, **cfg)
    return layer(channels, **cfg)


def find_layer(kind: Optional[str]) -> type:
    """The class registered under a name, looked for as mmcv looks for plugins."""
    layer = None
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(None) as registry:
            layer = registry.get(kind) or UNREGISTERED.get(kind)
    if layer is None:
        raise ValueError(
            f'attn_cfg: type={kind!r} is not in the registry of models; name a registered '
            "layer such as 'SCSA', 'ContextBlock' or 'TimmAttention', "
            'or import the module that registers it (custom_imports)'
        )
    return layer

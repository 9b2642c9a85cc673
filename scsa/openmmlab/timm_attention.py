"""The attentions of timm as layers of the registry; needs mmengine and, when built, timm."""

from functools import partial
from typing import Optional

from mmengine.registry import MODELS
from torch import Tensor, nn


def gather_excite(
    channels: int,
    rd_ratio: float = 1 / 16,
    rd_channels: Optional[int] = None,
    rd_divisor: int = 1,
    use_mlp: bool = True,
    **cfg,
) -> nn.Module:
    """Build ``'ge'``, whose own constructor stumbles over its MLP in timm 1.0.31."""
    from timm.layers import ConvMlp, GatherExcite, make_divisible

    layer = GatherExcite(channels, use_mlp=False, **cfg)
    if use_mlp:
        hidden = rd_channels or make_divisible(channels * rd_ratio, rd_divisor, round_limit=0.0)
        layer.mlp = ConvMlp(channels, hidden, act_layer=cfg.get('act_layer', nn.ReLU))
    return layer


@MODELS.register_module()
class TimmAttention(nn.Module):
    """Any attention that timm builds by name, for ``attn_cfg`` and for ``plugins``::

        attn_cfg=dict(type='TimmAttention', name='se', rd_ratio=0.25)

    Args:
        in_channels: Number of channels of the map.
        name: What ``timm.layers.create_attn`` calls it: ``'se'``, ``'ese'``, ``'eca'``, ``'ceca'``,
            ``'cbam'``, ``'coord'``, ``'ela'``, ``'strip'``, ``'gc'``, ``'ge'``, …
        channel_ratio: As for the plugin ``SCSA``.
        **cfg: Arguments of timm's layer.

    Raises:
        ImportError: if timm is not installed.
        ValueError: if the installed timm knows no attention of that name.
    """

    _abbr_ = 'attn'  # mmcv names the layer after this

    def __init__(self, in_channels: int, name: str, channel_ratio: float = 1.0, **cfg) -> None:
        super().__init__()
        try:
            import timm
            from timm.layers import create_attn, get_attn
        except ImportError as error:
            raise ImportError(
                f'TimmAttention needs timm ({error}); install it: pip install timm'
            ) from error
        try:
            known = isinstance(name, str) and get_attn(name) is not None
        except AssertionError:
            known = False
        if not known:
            raise ValueError(
                f'timm {timm.__version__} has no attention name={name!r}; '
                "use one of timm.layers.create_attn, such as 'se', 'eca', 'cbam', 'coord'"
            )
        self.name = name
        build = gather_excite if name.lower() == 'ge' else partial(create_attn, name)
        self.layer = build(round(in_channels * channel_ratio), **cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.layer(x)

    def extra_repr(self) -> str:
        return f'name={self.name!r}'

"""MobileNetV2 with SCSA in every inverted residual (arXiv 2407.05128, section 4)."""

from typing import Dict, List, Optional

from mmengine.registry import MODELS
from mmpretrain.models.backbones.mobilenet_v2 import InvertedResidual, MobileNetV2
from torch import Tensor, nn

from .attention import build_attention
from .checkpoint import SCSABackbone


@MODELS.register_module()
class MobileNetV2SCSA(SCSABackbone, MobileNetV2):
    """mmpretrain's ``MobileNetV2``, all its options, with SCSA in all 17 blocks.

    SCSA stands between the depthwise convolution and the projection of a block, as one more layer
    of its ``conv``: the keys are the published ones, where the projection has moved up by one
    index. Checkpoints of the plain MobileNetV2 are renamed on load.

    Args:
        scsa_cfg: Arguments of :class:`scsa.SCSA` but ``dim``, for every block; ``None`` for its
            defaults, which are the published settings.
        attn_cfg: ``dict(type=…)`` of another attention in SCSA's place, for every block; see
            :func:`build_attention`.
        **kwargs: Arguments of ``mmpretrain.models.MobileNetV2``.
    """

    def __init__(
        self,
        *args,
        scsa_cfg: Optional[Dict] = None,
        attn_cfg: Optional[Dict] = None,
        **kwargs,
    ) -> None:
        # Before the parent's constructor, which builds the layers.
        self.scsa_cfg, self.attn_cfg = scsa_cfg, attn_cfg
        super().__init__(*args, **kwargs)

    def make_layer(self, *args, **kwargs) -> nn.Sequential:
        layer = super().make_layer(*args, **kwargs)
        for block in layer:
            *depthwise, projection = block.conv
            attn = build_attention(projection.in_channels, self.attn_cfg, self.scsa_cfg)
            block.conv = nn.Sequential(*depthwise, attn, projection)
        return layer

    def attention_names(self) -> List[str]:
        return [
            f'{name}.conv.{len(block.conv) - 2}'
            for name, block in self.named_modules()
            if isinstance(block, InvertedResidual)
        ]

    def adapt_plain_keys(self, state_dict: Dict[str, Tensor], prefix: str) -> None:
        """Move a plain block's projection to the index behind the attention."""
        for name in self.attention_names():
            parent, index = name.rsplit('.', 1)
            projection = f'{prefix}{parent}.{int(index) + 1}.'
            plain = f'{prefix}{name}.'
            if any(key.startswith(projection) for key in state_dict):
                continue  # no plain block: the keys at the attention's index are the attention's
            for key in [k for k in state_dict if k.startswith((plain + 'conv.', plain + 'bn.'))]:
                state_dict[projection + key[len(plain) :]] = state_dict.pop(key)

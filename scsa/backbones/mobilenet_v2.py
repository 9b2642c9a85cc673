"""MobileNetV2 with SCSA in every inverted residual (arXiv 2407.05128, section 4)."""

from typing import Dict, Optional

from mmengine.registry import MODELS
from mmpretrain.models.backbones.mobilenet_v2 import MobileNetV2
from torch import Tensor, nn

from ..attention import SCSA
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
        **kwargs: Arguments of ``mmpretrain.models.MobileNetV2``.
    """

    def __init__(self, *args, scsa_cfg: Optional[Dict] = None, **kwargs) -> None:
        self.scsa_cfg = scsa_cfg  # before the parent's constructor, which builds the layers
        super().__init__(*args, **kwargs)

    def make_layer(self, *args, **kwargs) -> nn.Sequential:
        layer = super().make_layer(*args, **kwargs)
        for block in layer:
            *depthwise, projection = block.conv
            attn = SCSA(projection.in_channels, **(self.scsa_cfg or {}))
            block.conv = nn.Sequential(*depthwise, attn, projection)
        return layer

    def adapt_plain_keys(self, state_dict: Dict[str, Tensor], prefix: str) -> None:
        """Move a plain block's projection to the index behind SCSA."""
        for name, module in self.named_modules():
            if isinstance(module, SCSA):
                parent, index = name.rsplit('.', 1)
                projection = f'{prefix}{parent}.{int(index) + 1}.'
                plain = f'{prefix}{name}.'
                # A ConvModule's keys where SCSA's would be: only plain blocks have those.
                moved = (plain + 'conv.', plain + 'bn.')
                for key in [k for k in state_dict if k.startswith(moved)]:
                    state_dict[projection + key[len(plain) :]] = state_dict.pop(key)

"""ResNet with SCSA in every block (arXiv 2407.05128, section 4)."""

from typing import Dict, List, Optional

import torch.utils.checkpoint as cp
from mmengine.registry import MODELS
from mmpretrain.models.backbones.resnet import BasicBlock, Bottleneck, ResLayer, ResNet
from torch import Tensor, nn

from .attention import build_attention
from .checkpoint import SCSABackbone


def add_attention(block: nn.Module, after: str, *cfgs: Optional[Dict]) -> None:
    """Give a block its attention, registered behind that layer as in the published blocks.

    The forward pass does not care, but the state of an optimizer goes by the order of parameters.
    """
    names = list(block._modules)
    block.attn = build_attention(block.mid_channels, *cfgs)
    for name in names[names.index(after) + 1 :]:
        block._modules[name] = block._modules.pop(name)


class BasicBlockSCSA(BasicBlock):
    """mmpretrain's ``BasicBlock`` with SCSA between its two 3x3 convolutions."""

    def __init__(
        self,
        *args,
        scsa_cfg: Optional[Dict] = None,
        attn_cfg: Optional[Dict] = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        add_attention(self, self.norm1_name, attn_cfg, scsa_cfg)

    def forward(self, x: Tensor) -> Tensor:
        def residual(x: Tensor) -> Tensor:
            identity = x if self.downsample is None else self.downsample(x)
            out = self.relu(self.norm1(self.conv1(x)))
            out = self.attn(out)
            out = self.norm2(self.conv2(out))
            return self.drop_path(out) + identity

        if self.with_cp and x.requires_grad:
            return self.relu(cp.checkpoint(residual, x, use_reentrant=False))
        return self.relu(residual(x))


class BottleneckSCSA(Bottleneck):
    """mmpretrain's ``Bottleneck`` with SCSA between its 3x3 and its last 1x1 convolution."""

    def __init__(
        self,
        *args,
        scsa_cfg: Optional[Dict] = None,
        attn_cfg: Optional[Dict] = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        add_attention(self, self.norm2_name, attn_cfg, scsa_cfg)

    def forward(self, x: Tensor) -> Tensor:
        def residual(x: Tensor) -> Tensor:
            identity = x if self.downsample is None else self.downsample(x)
            out = self.relu(self.norm1(self.conv1(x)))
            out = self.relu(self.norm2(self.conv2(out)))
            out = self.attn(out)
            out = self.norm3(self.conv3(out))
            return self.drop_path(out) + identity

        if self.with_cp and x.requires_grad:
            return self.relu(cp.checkpoint(residual, x, use_reentrant=False))
        return self.relu(residual(x))


@MODELS.register_module()
class ResNetSCSA(SCSABackbone, ResNet):
    """mmpretrain's ``ResNet``, all its options, with SCSA in every block.

    Keys are those of the published ``ResNetSCSA`` (``layer1.0.attn.…``). Its checkpoints load, and
    so do those of the plain ResNet of mmpretrain and of torchvision, SCSA then starting anew.

    Args:
        scsa_cfg: Arguments of :class:`scsa.SCSA` but ``dim``, for every block; ``None`` for its
            defaults, which are the published settings.
        attn_cfg: ``dict(type=…)`` of another attention in SCSA's place, for every block; see
            :func:`build_attention`.
        **kwargs: Arguments of ``mmpretrain.models.ResNet``, ``depth`` above all.
    """

    arch_settings = {
        18: (BasicBlockSCSA, (2, 2, 2, 2)),
        34: (BasicBlockSCSA, (3, 4, 6, 3)),
        50: (BottleneckSCSA, (3, 4, 6, 3)),
        101: (BottleneckSCSA, (3, 4, 23, 3)),
        152: (BottleneckSCSA, (3, 8, 36, 3)),
    }

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

    def make_res_layer(self, **kwargs) -> ResLayer:
        return ResLayer(scsa_cfg=self.scsa_cfg, attn_cfg=self.attn_cfg, **kwargs)

    def attention_names(self) -> List[str]:
        blocks = (BasicBlockSCSA, BottleneckSCSA)
        return [f'{name}.attn' for name, m in self.named_modules() if isinstance(m, blocks)]

    def adapt_plain_keys(self, state_dict: Dict[str, Tensor], prefix: str) -> None:
        """Leave out the classifier that torchvision keeps in its ResNet."""
        for key in ('fc.weight', 'fc.bias'):
            state_dict.pop(prefix + key, None)

"""Swin Transformer with SCSA. The paper has it, the published code has not: this is our reading."""

from typing import Dict, List, Optional

import torch.utils.checkpoint as cp
from mmengine.registry import MODELS
from mmpretrain.models.backbones.swin_transformer import SwinBlock, SwinTransformer
from torch import Tensor, nn

from .attention import build_attention
from .checkpoint import SCSABackbone

POSITIONS = ('attn', 'ffn', 'block', 'stage')


class LaterDrop(nn.Identity):
    """In place of stochastic depth that has moved behind SCSA; it still tells, and takes, the rate.

    Others look the rate up where mmpretrain has it, ``block.attn.drop.drop_prob``, and schedules
    change it there.
    """

    def __init__(self, moved: nn.Module) -> None:
        super().__init__()
        self.__dict__['moved'] = moved  # and not as a child: it has a name of its own

    @property
    def drop_prob(self) -> float:
        return self.moved.drop_prob

    @drop_prob.setter
    def drop_prob(self, rate: float) -> None:
        self.moved.drop_prob = rate


class SwinBlockSCSA(SwinBlock):
    """mmpretrain's ``SwinBlock`` with SCSA on one of its branches or behind it."""

    @classmethod
    def convert(cls, block: SwinBlock, position: str, *cfgs: Optional[Dict]) -> None:
        """Turn a built block into one with SCSA, in place.

        The parents name their classes in long constructors that we do not want to copy, so the
        block changes its class, as ``torch.nn.utils.parametrize`` does it.
        """
        block.__class__ = cls
        block.position = position
        block.scsa = build_attention(block.ffn.embed_dims, *cfgs)
        # Stochastic depth drops a whole branch, so it comes after SCSA.
        block.drop_path = nn.Identity()
        if position == 'attn':
            block.drop_path = block.attn.drop
            block.attn.drop = LaterDrop(block.drop_path)
        elif position == 'ffn':
            block.drop_path = block.ffn.dropout_layer
            block.ffn.dropout_layer = LaterDrop(block.drop_path)

    def attend(self, tokens: Tensor, hw_shape) -> Tensor:
        """SCSA on tokens (B, H * W, C), which are a (B, C, H, W) map in channels_last order."""
        # Not `unflatten`, whose sizes a traced file keeps.
        x = tokens.reshape(tokens.shape[0], *hw_shape, tokens.shape[2])
        x = x.permute(0, 3, 1, 2)  # (B, C, H, W), a view
        return self.scsa(x).permute(0, 2, 3, 1).flatten(1, 2)

    def forward(self, x: Tensor, hw_shape) -> Tensor:
        def inner(x: Tensor) -> Tensor:
            branch = self.attn(self.norm1(x), hw_shape)
            if self.position == 'attn':
                branch = self.drop_path(self.attend(branch, hw_shape))
            x = x + branch
            if self.position == 'ffn':
                branch = self.ffn(self.norm2(x), identity=0.0)  # the branch alone
                return x + self.drop_path(self.attend(branch, hw_shape))
            x = self.ffn(self.norm2(x), identity=x)
            return self.attend(x, hw_shape) if self.position == 'block' else x

        if self.with_cp and x.requires_grad:
            return cp.checkpoint(inner, x, use_reentrant=False)
        return inner(x)


@MODELS.register_module()
class SwinTransformerSCSA(SCSABackbone, SwinTransformer):
    """mmpretrain's ``SwinTransformer``, all its options, with SCSA in its blocks.

    By analogy with the published backbones SCSA comes where spatial mixing is done and channel
    mixing is not yet: behind (shifted) window attention. Checkpoints of the plain Swin load, SCSA
    then starting anew under ``stages.N.blocks.N.scsa.…``.

    Args:
        position: ``'attn'``, on the output of window attention, inside the residual branch;
            ``'ffn'``, the same on the output of the FFN; ``'block'``, behind every block; or
            ``'stage'``, behind the last block of every stage.
        scsa_cfg: Arguments of :class:`scsa.SCSA` but ``dim``; ``None`` for its defaults.
        attn_cfg: ``dict(type=…)`` of another attention in SCSA's place, for every block; see
            :func:`build_attention`.
        **kwargs: Arguments of ``mmpretrain.models.SwinTransformer``, ``arch`` above all.

    Raises:
        ValueError: on a position that is not among the above.
    """

    def __init__(
        self,
        *args,
        position: str = 'attn',
        scsa_cfg: Optional[Dict] = None,
        attn_cfg: Optional[Dict] = None,
        **kwargs,
    ) -> None:
        if position not in POSITIONS:
            raise ValueError(f'position={position!r} is unknown; use one of {POSITIONS}')
        super().__init__(*args, **kwargs)
        for stage in self.stages:
            blocks = stage.blocks[-1:] if position == 'stage' else stage.blocks
            for block in blocks:
                where = 'block' if position == 'stage' else position
                SwinBlockSCSA.convert(block, where, attn_cfg, scsa_cfg)

    def attention_names(self) -> List[str]:
        blocks = self.named_modules()
        return [f'{name}.scsa' for name, m in blocks if isinstance(m, SwinBlockSCSA)]

    def is_free(self, key: str) -> bool:
        """The parent resizes positions on load; a classifier's checkpoint has one output norm."""
        resized = ('relative_position_bias_table', 'relative_position_index', 'absolute_pos_embed')
        return key.endswith(resized) or key.startswith('norm')

    def adapt_plain_keys(self, state_dict: Dict[str, Tensor], prefix: str) -> None:
        """Read old checkpoints as the parent does, which looks for its own exact class."""
        for key in [k for k in state_dict if k.startswith(prefix)]:
            name = key[len(prefix) :]
            if 'attn_mask' in name:
                del state_dict[key]
            elif name.startswith('norm.'):
                last = f'norm{len(self.stages) - 1}.'
                state_dict[prefix + last + name[len('norm.') :]] = state_dict.pop(key)

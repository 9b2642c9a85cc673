"""PCSA, progressive channel-wise self-attention (arXiv 2407.05128, section 3.3)."""

from typing import Any, Dict, Optional, Tuple, Union

import torch
from torch import Tensor, nn

from ..ops import is_compiling
from .smsa import GATES
from .steps import (
    channel_gate,
    check_input,
    is_exporting,
    pool_windows,
    recombine_windows,
    upcast,
)

torch.fx.wrap('check_input')
torch.fx.wrap('channel_gate')
torch.fx.wrap('pool_windows')
torch.fx.wrap('recombine_windows')
torch.fx.wrap('upcast')

DOWN_SAMPLE_MODES = ('avg_pool', 'max_pool', 'recombination')


class WindowRecombination(nn.Conv2d):
    """The published ``conv_d``: a 1x1 convolution over all pixels of a window, window by window."""

    def __init__(self, dim: int, window_size: int, **factory: Any) -> None:
        super().__init__(dim * window_size**2, dim, 1, bias=False, **factory)
        self.window_size = window_size

    def forward(self, x: Tensor) -> Tensor:
        return recombine_windows(x, self.weight, self.window_size)


class PCSA(nn.Module):
    r"""Gate every channel by its attention to the other channels.

    With Y the map pooled window by window to N tokens, normalised, and d = C / head_num,

    .. math::
        A = \operatorname{softmax}\bigl(q k^\top / \sqrt d\bigr) \in \mathbb R^{d \times d},
        \qquad \text{out} = X \cdot \operatorname{gate}\bigl(\operatorname{mean}_N (A v)\bigr)

    where q, k and v are one scale a channel of Y: the attention runs over *channels*, the tokens
    are its features. Since the mean over the tokens commutes with A, the second product is taken
    with the mean of v, a vector.

    Used alone it has no second derivatives, for PyTorch's attention kernel has none; within
    :class:`SCSA` it has.

    Args:
        dim: Number of channels C of the map.
        head_num: Number of heads; the attention matrix is (C / head_num)².
        window_size: Side of the pooling window in pixels, also its stride; a map smaller than
            that is one window. -1 pools the whole map to one token.
        qkv_bias: Whether q, k and v add a bias.
        down_sample_mode: How a window becomes a token: ``'avg_pool'``, ``'max_pool'``, or
            ``'recombination'`` (all its pixels as channels, then a 1x1 convolution back to C).
        attn_drop_ratio: Dropout on the attention matrix while training, 0 to below 1.
        gate_layer: ``'sigmoid'``, or ``'softmax'`` over the channels.
        device: Where the parameters are made, ``'cpu'``, ``'cuda'``, ``'meta'``; torch's default.
        dtype: Their type, a floating one; torch's default.

    Raises:
        ValueError: if ``dim`` is not divisible by ``head_num``, or on an option that is not among
            the above.
    """

    def __init__(
        self,
        dim: int,
        head_num: int = 1,
        window_size: int = 7,
        qkv_bias: bool = False,
        down_sample_mode: str = 'avg_pool',
        attn_drop_ratio: float = 0.0,
        gate_layer: str = 'sigmoid',
        device: Union[torch.device, str, int, None] = None,
        dtype: Optional[torch.dtype] = None,
    ) -> None:
        super().__init__()
        factory = dict(device=device, dtype=dtype)
        self._build_channel(
            dim,
            head_num,
            window_size,
            qkv_bias,
            down_sample_mode,
            attn_drop_ratio,
            gate_layer,
            factory,
        )

    def _build_channel(
        self,
        dim: int,
        head_num: int,
        window_size: int,
        qkv_bias: bool,
        down_sample_mode: str,
        attn_drop_ratio: float,
        gate_layer: str,
        factory: Dict[str, Any],
    ) -> None:
        if head_num < 1 or dim < 1 or dim % head_num:
            raise ValueError(f'dim={dim} is not divisible by head_num={head_num}')
        if not isinstance(window_size, int) or (window_size < 1 and window_size != -1):
            raise ValueError(
                f'window_size={window_size!r}: give a positive number of pixels, '
                'or -1 for the whole map'
            )
        if down_sample_mode not in DOWN_SAMPLE_MODES:
            raise ValueError(
                f'down_sample_mode={down_sample_mode!r} is unknown; use one of {DOWN_SAMPLE_MODES}'
            )
        if not 0.0 <= attn_drop_ratio < 1.0:
            raise ValueError(f'attn_drop_ratio={attn_drop_ratio} is not in [0, 1)')
        if gate_layer not in GATES:
            raise ValueError(f'gate_layer={gate_layer!r} is unknown; use one of {GATES}')
        self.dim = dim
        self.head_num = head_num
        self.window_size = window_size
        self.down_sample_mode = down_sample_mode
        self.gate_layer = gate_layer

        self.recombine = down_sample_mode == 'recombination' and window_size != -1
        self.conv_d = (
            WindowRecombination(dim, window_size, **factory) if self.recombine else nn.Identity()
        )
        self.norm = nn.GroupNorm(1, dim, **factory)
        self.q = nn.Conv2d(dim, dim, 1, bias=qkv_bias, groups=dim, **factory)
        self.k = nn.Conv2d(dim, dim, 1, bias=qkv_bias, groups=dim, **factory)
        self.v = nn.Conv2d(dim, dim, 1, bias=qkv_bias, groups=dim, **factory)
        self.attn_drop = nn.Dropout(attn_drop_ratio)

    def channel_parameters(self) -> Tuple[Tensor, Tensor, Tensor, Optional[Tensor]]:
        """What :func:`channel_gate` takes, the scales of q, k and v as one tensor (3, C, 1)."""
        q, k, v = self.q, self.k, self.v
        scale = torch.stack([q.weight, k.weight, v.weight]).view(3, self.dim, 1)
        b_q, b_k, b_v = q.bias, k.bias, v.bias
        shift: Optional[Tensor] = None
        if b_q is not None and b_k is not None and b_v is not None:
            shift = torch.stack([b_q, b_k, b_v]).view(3, self.dim, 1)
        return self.norm.weight, self.norm.bias, scale, shift

    def channel_attention(self, x: Tensor) -> Tensor:
        """PCSA itself: (B, C, H, W) -> (B, C, H, W)."""
        check_input(x, self.dim)
        generated, onnx = False, False  # compiled for inference; exported by way of a trace
        if not torch.jit.is_scripting():
            generated = is_compiling() and not (is_exporting() or torch.is_grad_enabled())
            onnx = torch.jit.is_tracing() and torch.onnx.is_in_onnx_export()
        if self.recombine:
            y = self.conv_d(x)
        else:
            y = pool_windows(x, self.down_sample_mode, self.window_size, as_means=generated)
        d = self.dim // self.head_num
        gate = channel_gate(
            upcast(y),
            *self.channel_parameters(),
            d=d,
            dropout=self.attn_drop.p if self.training else 0.0,
            softmax=self.gate_layer == 'softmax',
            # Few channels are faster in generated code; torch 2.1 exports no scaled kernel.
            fused=not onnx and (d >= 512 or not generated),
        )
        return (upcast(x) * gate.unsqueeze(2).unsqueeze(3)).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.channel_attention(x)

    def extra_repr(self) -> str:
        return (
            f'dim={self.dim}, head_num={self.head_num}, window_size={self.window_size}, '
            f'down_sample_mode={self.down_sample_mode!r}, gate_layer={self.gate_layer!r}'
        )

"""SCSA, spatial and channel synergistic attention (arXiv 2407.05128): PCSA after SMSA."""

from typing import Optional, Sequence, Union

import torch
from torch import Tensor, nn

from ..ops import no_autocast, path_for
from ..ops.function import compute_scsa
from .pcsa import PCSA
from .smsa import SMSA
from .steps import Options, Parameters, check_input

torch.fx.wrap('check_input')


class SCSA(SMSA, PCSA):
    """Spatial gates that guide a channel attention; the map keeps its shape, type and layout.

    Give it the channels of the map it follows and put it where spatial mixing is done and channel
    mixing is not yet (in a bottleneck: between the 3x3 convolution and the last 1x1)::

        attn = SCSA(64)
        y = attn(x)  # x: (B, 64, H, W), any H and W

    The parameters are named as in the published code, flat, so that its checkpoints load. Both
    halves are inherited and not contained for that reason.

    Args:
        dim: Number of channels C of the map, divisible by 4 and by ``head_num``.
        head_num: Number of heads of the channel attention.
        window_size: Side of the pooling window of the channel attention; -1 for the whole map.
        group_kernel_sizes: Kernel size of each of the four channel groups of the spatial attention.
        qkv_bias: Whether q, k and v of the channel attention add a bias.
        down_sample_mode: ``'avg_pool'``, ``'max_pool'`` or ``'recombination'``.
        attn_drop_ratio: Dropout on the channel attention matrix while training.
        gate_layer: ``'sigmoid'`` or ``'softmax'``, for all three gates.
        device: Where the parameters are made, ``'cpu'``, ``'cuda'``, ``'meta'``; torch's default.
        dtype: Their type, a floating one; torch's default.

    Raises:
        ValueError: see :class:`SMSA` and :class:`PCSA`.
    """

    def __init__(
        self,
        dim: int,
        head_num: int = 1,
        window_size: int = 7,
        group_kernel_sizes: Sequence[int] = (3, 5, 7, 9),
        qkv_bias: bool = False,
        down_sample_mode: str = 'avg_pool',
        attn_drop_ratio: float = 0.0,
        gate_layer: str = 'sigmoid',
        device: Union[torch.device, str, int, None] = None,
        dtype: Optional[torch.dtype] = None,
    ) -> None:
        nn.Module.__init__(self)
        factory = dict(device=device, dtype=dtype)
        self._build_spatial(dim, group_kernel_sizes, gate_layer, factory)
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

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not torch.jit.is_scripting():
            path = path_for(x)
            if path != 'plain':
                check_input(x, self.dim)
                return self._fast(x, path)
        return self.channel_attention(self.spatial_attention(x))

    @torch.jit.unused
    def _fast(self, x: Tensor, path: str) -> Tensor:
        """The same with little memory and traffic; see :mod:`scsa.ops`."""
        if path == 'reference':
            from .reference import scsa_reference

            return scsa_reference(self, x)
        options = Options(
            self.dim // self.head_num,
            self.window_size,
            self.down_sample_mode,
            self.attn_drop.p if self.training else 0.0,
            self.gate_layer == 'softmax',
        )
        conv_d = self.conv_d.weight if self.recombine else None
        with no_autocast(x):  # which refuses to join half precision of the other kind
            params = Parameters(*self.spatial_parameters(), *self.channel_parameters(), conv_d)
        return compute_scsa(options, x, params)

    def extra_repr(self) -> str:
        return f'{PCSA.extra_repr(self)}, group_kernel_sizes={self.group_kernel_sizes}'

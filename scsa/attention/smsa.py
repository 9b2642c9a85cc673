"""SMSA, shareable multi-semantic spatial attention (arXiv 2407.05128, section 3.2)."""

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from ..ops import is_compiling
from .steps import check_input, gate_pixels, is_exporting

torch.fx.wrap('check_input')
torch.fx.wrap('gate_pixels')
torch.fx.wrap('join_kernels')

GATES = ('sigmoid', 'softmax')


def join_kernels(weights: List[Tensor], sizes: List[int]) -> Tensor:
    """The four convolutions' (C / 4, 1, k) as one (C, 1, K), with zeros around the shorter."""
    margins = [(max(sizes) - size) // 2 for size in sizes]
    return torch.cat(
        [w if m == 0 else torch.constant_pad_nd(w, [m, m]) for w, m in zip(weights, margins)]
    )


class StripConv(nn.Conv1d):
    """Depthwise convolution along a strip. It always has a bias, which TorchScript must be told."""

    bias: Tensor

    def __init__(self, channels: int, kernel_size: int, **factory: Any) -> None:
        half = kernel_size // 2
        super().__init__(channels, channels, kernel_size, padding=half, groups=channels, **factory)


class SMSA(nn.Module):
    r"""Gate every pixel by what its row and its column hold, seen at four ranges.

    The map is averaged to a height strip and a width strip. The channels are split into four
    groups, each with its own kernel size, so that each sees another range:

    .. math::
        X_h = \operatorname{mean}_W X, \quad X_w = \operatorname{mean}_H X, \qquad
        A_s = \operatorname{gate}\bigl(\operatorname{GN}^4_s(
        \operatorname{concat}_i \operatorname{DWConv}_{k_i}(X_s^i))\bigr), \quad s \in \{h, w\}

    and the result is :math:`X \cdot A_h \cdot A_w`. The convolutions are *shared* by both strips;
    the norms are not.

    Args:
        dim: Number of channels C of the map.
        group_kernel_sizes: One odd kernel size for each of the four groups of C / 4 channels.
        gate_layer: ``'sigmoid'``, or ``'softmax'`` along the strip.
        device: Where the parameters are made, ``'cpu'``, ``'cuda'``, ``'meta'``; torch's default.
        dtype: Their type, a floating one; torch's default.

    Raises:
        ValueError: if ``dim`` is not divisible by four, or on kernel sizes or a gate that are not
            among the above.
    """

    def __init__(
        self,
        dim: int,
        group_kernel_sizes: Sequence[int] = (3, 5, 7, 9),
        gate_layer: str = 'sigmoid',
        device: Union[torch.device, str, int, None] = None,
        dtype: Optional[torch.dtype] = None,
    ) -> None:
        super().__init__()
        factory = dict(device=device, dtype=dtype)
        self._build_spatial(dim, group_kernel_sizes, gate_layer, factory)

    def _build_spatial(
        self, dim: int, group_kernel_sizes: Sequence[int], gate_layer: str, factory: Dict[str, Any]
    ) -> None:
        kernels = tuple(group_kernel_sizes)
        if len(kernels) != 4:
            raise ValueError(
                f'group_kernel_sizes={kernels} has {len(kernels)} entries; SCSA has 4 kernel '
                'groups, give one odd kernel size for each, such as (3, 5, 7, 9)'
            )
        if any(not isinstance(k, int) or k < 1 or k % 2 == 0 for k in kernels):
            raise ValueError(
                f'group_kernel_sizes={kernels}: kernel sizes are odd and positive, '
                'so that a strip keeps its length'
            )
        if dim < 1 or dim % 4:
            raise ValueError(f'dim={dim} is not divisible by the 4 kernel groups {kernels}')
        if gate_layer not in GATES:
            raise ValueError(f'gate_layer={gate_layer!r} is unknown; use one of {GATES}')
        self.dim = dim
        self.group_kernel_sizes = kernels
        self.gate_layer = gate_layer

        # The published names; `global` because the longer kernels see further along the strip.
        self.local_dwc = StripConv(dim // 4, kernels[0], **factory)
        self.global_dwc_s = StripConv(dim // 4, kernels[1], **factory)
        self.global_dwc_m = StripConv(dim // 4, kernels[2], **factory)
        self.global_dwc_l = StripConv(dim // 4, kernels[3], **factory)
        self.norm_h = nn.GroupNorm(4, dim, **factory)
        self.norm_w = nn.GroupNorm(4, dim, **factory)

    def spatial_parameters(self) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What :func:`gate_pixels` takes: the four convolutions as one, and the norms."""
        convs = (self.local_dwc, self.global_dwc_s, self.global_dwc_m, self.global_dwc_l)
        kernel = join_kernels([c.weight for c in convs], list(self.group_kernel_sizes))
        bias = torch.cat([c.bias for c in convs])
        norm_h, norm_w = self.norm_h, self.norm_w
        return kernel, bias, norm_h.weight, norm_h.bias, norm_w.weight, norm_w.bias

    def spatial_attention(self, x: Tensor) -> Tensor:
        """SMSA itself: (B, C, H, W) -> (B, C, H, W)."""
        check_input(x, self.dim)
        unrolled = False
        if not torch.jit.is_scripting():
            unrolled = is_compiling() and not is_exporting()
        softmax = self.gate_layer == 'softmax'
        return gate_pixels(x, *self.spatial_parameters(), softmax=softmax, unrolled=unrolled)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.spatial_attention(x)

    def extra_repr(self) -> str:
        return (
            f'dim={self.dim}, group_kernel_sizes={self.group_kernel_sizes}, '
            f'gate_layer={self.gate_layer!r}'
        )

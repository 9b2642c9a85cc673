"""What the paper compares SCSA with: the same two halves, put together otherwise.

None of these is SCSA as published, and no published checkpoint fits one.
"""

from typing import Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from .pcsa import PCSA
from .smsa import SMSA


class PCSABeforeSMSA(nn.Module):
    """The halves of SCSA in the other order: channels first.

    Args:
        dim: Number of channels C of the map.
        group_kernel_sizes: As for :class:`SMSA`.
        gate_layer: For all three gates.
        device: As for :class:`SMSA`.
        dtype: As for :class:`SMSA`.
        **pcsa_cfg: The other arguments of :class:`PCSA`.
    """

    def __init__(
        self,
        dim: int,
        group_kernel_sizes: Sequence[int] = (3, 5, 7, 9),
        gate_layer: str = 'sigmoid',
        device: Union[torch.device, str, int, None] = None,
        dtype: Optional[torch.dtype] = None,
        **pcsa_cfg,
    ) -> None:
        super().__init__()
        factory = dict(device=device, dtype=dtype)
        self.smsa = SMSA(dim, group_kernel_sizes, gate_layer, **factory)
        self.pcsa = PCSA(dim, gate_layer=gate_layer, **factory, **pcsa_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.smsa(self.pcsa(x))


class ParallelSCSA(PCSABeforeSMSA):
    """Both halves on the same map, neither guiding the other; the result is the mean of the two.

    Takes the arguments of :class:`PCSABeforeSMSA`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return (self.smsa(x) + self.pcsa(x)) / 2


class UnsharedSMSA(SMSA):
    """SMSA with convolutions of their own for the width strip.

    Those it inherits are left to the height strip. Takes the arguments of :class:`SMSA`.
    """

    def __init__(
        self,
        dim: int,
        group_kernel_sizes: Sequence[int] = (3, 5, 7, 9),
        gate_layer: str = 'sigmoid',
        device: Union[torch.device, str, int, None] = None,
        dtype: Optional[torch.dtype] = None,
    ) -> None:
        factory = dict(device=device, dtype=dtype)
        super().__init__(dim, group_kernel_sizes, gate_layer, **factory)
        c = dim // 4
        self.width_convs = nn.ModuleList(
            nn.Conv1d(c, c, k, padding=k // 2, groups=c, **factory) for k in group_kernel_sizes
        )

    def gate(self, strip: Tensor, convs: Sequence[nn.Module], norm: nn.Module) -> Tensor:
        """(B, C, L) -> (B, C, L)."""
        strip = norm(torch.cat([f(group) for f, group in zip(convs, strip.chunk(4, 1))], 1))
        return strip.softmax(2) if self.gate_layer == 'softmax' else strip.sigmoid()

    def gates(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        """The gates of the rows (B, C, H) and of the columns (B, C, W)."""
        height_convs = (self.local_dwc, self.global_dwc_s, self.global_dwc_m, self.global_dwc_l)
        a_h = self.gate(x.mean(3), height_convs, self.norm_h).to(x.dtype)
        a_w = self.gate(x.mean(2), self.width_convs, self.norm_w).to(x.dtype)
        return a_h, a_w

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        a_h, a_w = self.gates(x)
        return x * a_h.unsqueeze(3) * a_w.unsqueeze(2)


class UnsharedSCSA(nn.Module):
    """PCSA after :class:`UnsharedSMSA`. Takes the arguments of :class:`PCSABeforeSMSA`."""

    def __init__(
        self,
        dim: int,
        group_kernel_sizes: Sequence[int] = (3, 5, 7, 9),
        gate_layer: str = 'sigmoid',
        device: Union[torch.device, str, int, None] = None,
        dtype: Optional[torch.dtype] = None,
        **pcsa_cfg,
    ) -> None:
        super().__init__()
        factory = dict(device=device, dtype=dtype)
        self.smsa = UnsharedSMSA(dim, group_kernel_sizes, gate_layer, **factory)
        self.pcsa = PCSA(dim, gate_layer=gate_layer, **factory, **pcsa_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.pcsa(self.smsa(x))

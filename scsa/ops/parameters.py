"""What a module computes and with which parameters."""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

COUNT = 21  # parameters one by one, some of them None


class Options(NamedTuple):
    """What a module computes, beside its parameters."""

    head_dim: int  # channels of a head
    window_size: int
    mode: str
    dropout: float  # 0 outside training
    softmax: bool

    @property
    def averages(self) -> bool:
        """Whether windows are averaged: then the tokens are sums of rows and of columns."""
        return self.mode == 'avg_pool' or self.window_size == -1

    def window(self, x: Tensor) -> Optional[Tuple[int, int]]:
        """Height and width of a window of ``x`` in pixels; None where windows are not averaged."""
        if not self.averages:
            return None
        height, width = x.size(2), x.size(3)
        size = max(height, width) if self.window_size == -1 else self.window_size
        return min(size, height), min(size, width)


class Parameters(NamedTuple):
    """The parameters in the type of the strips, joined where one operation takes several."""

    kernel: Tensor  # (C, 1, K), of all convolutions
    bias: Tensor  # (C)
    strip_weight: Tensor  # (2 C), of norm_h and norm_w
    strip_bias: Tensor  # likewise
    norm_weight: Tensor  # (C), of norm
    norm_bias: Tensor
    scale: Tensor  # (3, C, 1), of q, k and v
    shift: Optional[Tensor]
    conv_d: Optional[Tensor]

    @property
    def spatial(self) -> Tuple[Tensor, ...]:
        """Those that make the gates of the strips."""
        return self[:4]

    @property
    def channel(self) -> Tuple[Optional[Tensor], ...]:
        """Those that make queries, keys and values of the tokens."""
        return self[4:8]


def join(params: Sequence[Optional[Tensor]], dtype: torch.dtype) -> Parameters:
    """From the parameters one by one, in the order of ``SCSA.raw_parameters``, then ``conv_d``."""
    kernel_s, kernel_m, kernel_l, kernel_x, *params = params
    bias_s, bias_m, bias_l, bias_x, weight_h, bias_h, weight_w, bias_w, *params = params
    norm_weight, norm_bias, q, k, v, q_bias, k_bias, v_bias, conv_d = params
    kernels = [kernel_s, kernel_m, kernel_l, kernel_x]
    joined = Parameters(
        kernel=join_kernels(kernels, [kernel.size(2) for kernel in kernels]),
        bias=torch.cat([bias_s, bias_m, bias_l, bias_x]),
        strip_weight=torch.cat([weight_h, weight_w]),
        strip_bias=torch.cat([bias_h, bias_w]),
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        scale=torch.stack([q, k, v]).view(3, -1, 1),
        shift=None if q_bias is None else torch.stack([q_bias, k_bias, v_bias]).view(3, -1, 1),
        conv_d=conv_d,
    )
    return Parameters(*(p if p is None else p.to(dtype) for p in joined))


def split(grads: Parameters, params: Sequence[Optional[Tensor]]) -> List[Optional[Tensor]]:
    """Joined gradients to those of the parameters one by one."""
    longest = grads.kernel.size(2)
    kernels = [
        part.narrow(2, (longest - kernel.size(2)) // 2, kernel.size(2))
        for part, kernel in zip(grads.kernel.chunk(4), params)
    ]
    (weight_h, weight_w), (bias_h, bias_w) = grads.strip_weight.chunk(2), grads.strip_bias.chunk(2)
    strip_norms = [weight_h, bias_h, weight_w, bias_w]
    qkv_biases = [None] * 3 if grads.shift is None else grads.shift
    found = [*kernels, *grads.bias.chunk(4), *strip_norms, grads.norm_weight, grads.norm_bias]
    found += [*grads.scale, *qkv_biases, grads.conv_d]
    return [p if p is None else g.reshape(p.shape).to(p.dtype) for g, p in zip(found, params)]


def join_kernels(weights: List[Tensor], sizes: List[int]) -> Tensor:
    """The four convolutions' (C / 4, 1, k) as one (C, 1, K), with zeros around the shorter."""
    margins = [(max(sizes) - size) // 2 for size in sizes]
    return torch.cat(
        [w if m == 0 else torch.constant_pad_nd(w, [m, m]) for w, m in zip(weights, margins)]
    )

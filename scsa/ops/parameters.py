"""What a module computes and with which parameters, as the eager path takes them."""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .functional import join_kernels

COUNT = 21  # parameters one by one, some of them None


class Options(NamedTuple):
    """What a module computes, beside its parameters."""

    d: int  # channels of a head
    window_size: int
    mode: str
    dropout: float  # 0 outside training
    softmax: bool

    @property
    def averages(self) -> bool:
        return self.mode == 'avg_pool' or self.window_size == -1


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
    weights, biases, strip_norms, norm = params[:4], params[4:8], params[8:12], params[12:14]
    scales, shifts, conv_d = params[14:17], params[17:20], params[20]
    joined = (
        join_kernels(weights, [weight.size(2) for weight in weights]),
        torch.cat(biases),
        torch.cat(strip_norms[::2]),
        torch.cat(strip_norms[1::2]),
        *norm,
        torch.stack(scales).view(3, -1, 1),
        None if shifts[0] is None else torch.stack(shifts).view(3, -1, 1),
        conv_d,
    )
    return Parameters(*(p if p is None else p.to(dtype) for p in joined))


def split(d: Parameters, params: Sequence[Optional[Tensor]]) -> List[Optional[Tensor]]:
    """Joined gradients to those of the parameters one by one."""
    longest = d.kernel.size(2)
    d_weights = [
        part.narrow(2, (longest - weight.size(2)) // 2, weight.size(2))
        for part, weight in zip(d.kernel.chunk(4), params)
    ]
    d_strip_norms = [
        side for both in zip(d.strip_weight.chunk(2), d.strip_bias.chunk(2)) for side in both
    ]
    d_norm, d_shifts = (d.norm_weight, d.norm_bias), d.shift if d.shift is not None else [None] * 3
    found = [*d_weights, *d.bias.chunk(4), *d_strip_norms, *d_norm, *d.scale, *d_shifts, d.conv_d]
    return [p if p is None else g.reshape(p.shape).to(p.dtype) for g, p in zip(found, params)]

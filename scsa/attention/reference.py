"""SCSA written down once more as the published module computes it, step by step.

Slow and plain on purpose: eight convolutions, every intermediate map, the whole attention times the
whole value. Tests and benchmarks compare against this; nothing else should call it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .scsa import SCSA


def scsa_reference(module: SCSA, x: Tensor) -> Tensor:
    """What ``module(x)`` must give, for (B, C, H, W) with H and W at least the window."""
    batch, channels, height, width = x.shape
    window, heads = module.window_size, module.head_num
    softmax = module.gate_layer == 'softmax'
    convs = [module.local_dwc, module.global_dwc_s, module.global_dwc_m, module.global_dwc_l]

    # SMSA
    gates = []
    for strip, norm in ((x.mean(3), module.norm_h), (x.mean(2), module.norm_w)):
        groups = strip.split(channels // 4, dim=1)
        strip = torch.cat([conv(group) for conv, group in zip(convs, groups)], dim=1)
        strip = norm(strip)
        gates.append(strip.softmax(dim=2) if softmax else strip.sigmoid())
    x_s = x * gates[0].view(batch, channels, height, 1) * gates[1].view(batch, channels, 1, width)

    # PCSA
    if window == -1:
        y = F.adaptive_avg_pool2d(x_s, 1)
    elif module.down_sample_mode == 'avg_pool':
        y = F.avg_pool2d(x_s, window, stride=window)
    elif module.down_sample_mode == 'max_pool':
        y = F.max_pool2d(x_s, window, stride=window)
    else:
        rows, cols = height // window, width // window
        y = x_s[:, :, : rows * window, : cols * window]
        y = y.reshape(batch, channels, rows, window, cols, window)
        y = y.permute(0, 1, 3, 5, 2, 4).reshape(batch, -1, rows, cols)
        y = F.conv2d(y, module.conv_d.weight)
    y = module.norm(y)

    def split_heads(t: Tensor) -> Tensor:  # (B, C, H', W') -> (B, heads, d, N)
        return t.reshape(batch, heads, channels // heads, -1)

    q, k, v = split_heads(module.q(y)), split_heads(module.k(y)), split_heads(module.v(y))
    attn = q @ k.transpose(-2, -1) * (channels // heads) ** -0.5
    attn = module.attn_drop(attn.softmax(dim=-1)) @ v
    gate = attn.mean(dim=-1).reshape(batch, channels, 1, 1)
    gate = gate.softmax(dim=1) if softmax else gate.sigmoid()
    return gate * x_s

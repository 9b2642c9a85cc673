"""What is inside SCSA while a network looks at an image: the gates, the map before and after."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..attention import PCSA, SMSA
from ..attention.steps import (
    convolve_strips,
    gate_of,
    pool_windows,
    queries_keys_values,
    strip_gate,
)
from ..attention.variants import UnsharedSMSA
from ..cli import UserError


def find_attentions(model: nn.Module) -> list[str]:
    """The names of all SCSA, SMSA and PCSA of a network, first to last.

    Raises:
        UserError: There is none.
    """
    names = [name for name, layer in model.named_modules() if isinstance(layer, (SMSA, PCSA))]
    if not names:
        raise UserError('there is no SCSA, SMSA or PCSA in this model; give one that has')
    return names


def attention_maps(
    model: nn.Module, inputs: Tensor, names: list[str]
) -> dict[str, dict[str, np.ndarray]]:
    """What the attentions of a network are given, compute and give, for one image.

    Args:
        model: The network, in eval mode.
        inputs: (1, 3, H, W), as the network takes it.
        names: Of the modules to look into; :func:`find_attentions` gives all.

    Returns:
        For each name, those that the module has of: ``before`` and ``after`` (C, h, w), what it is
        given and what it gives; ``height`` (C, h) and ``width`` (C, w), the gates of the rows and
        of the columns, A_h and A_w, a quarter of the channels for each kernel size; ``channel``
        (C), the gate of the channels; ``attention`` (heads, C / heads, C / heads), whose rows sum
        to 1.

    Raises:
        UserError: A name is not that of an SCSA, SMSA or PCSA.
    """
    found, modules = {}, dict(model.named_modules())
    for name in names:
        if not isinstance(modules.get(name), (SMSA, PCSA)):
            known = ', '.join(find_attentions(model))
            raise UserError(f'no SCSA, SMSA or PCSA is called {name!r}; there are {known}')

    def hook(name: str):
        def look(module, given, after):
            arrays = {'before': given[0], **gates(module, given[0]), 'after': after}
            found[name] = {key: value[0].cpu().numpy() for key, value in arrays.items()}

        return look

    handles = [modules[name].register_forward_hook(hook(name)) for name in names]
    try:
        with torch.no_grad():
            getattr(model, 'extract_feat', model)(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def gates(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The gates that an SCSA, SMSA or PCSA makes of a map (B, C, H, W).

    Returns:
        ``height`` (B, C, H), ``width`` (B, C, W), ``channel`` (B, C) and ``attention``
        (B, heads, d, d), as far as the module has them.
    """
    softmax, found = module.gate_layer == 'softmax', {}
    if isinstance(module, SMSA):
        if isinstance(module, UnsharedSMSA):
            a_h, a_w = module.gates(x)
        else:
            kernel, bias, *norms = module.spatial_parameters()
            u_h, u_w = convolve_strips(x.mean(3), x.mean(2), kernel, bias)
            a_h, a_w = strip_gate(u_h, *norms[:2], softmax), strip_gate(u_w, *norms[2:], softmax)
        found.update(height=a_h, width=a_w)
        x = x * a_h.unsqueeze(3) * a_w.unsqueeze(2)
    if isinstance(module, PCSA):
        if module.recombine:
            y = module.conv_d(x)
        else:
            y = pool_windows(x, module.down_sample_mode, module.window_size)
        d = module.dim // module.head_num
        q, k, v = queries_keys_values(y, *module.channel_parameters(), d)  # (B, heads, d, N)
        attention = (q @ k.transpose(2, 3) * d**-0.5).softmax(3)
        mean = (attention * v.mean(3).unsqueeze(2)).sum(3)
        found.update(channel=gate_of(mean.flatten(1), 1, softmax), attention=attention)
    return found


def apply_gates(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The output (C, h, w) that follows from what :func:`attention_maps` gives for one module."""
    x = arrays['before']
    if 'height' in arrays:
        x = x * arrays['height'][:, :, None] * arrays['width'][:, None, :]
    return x * arrays['channel'][:, None, None] if 'channel' in arrays else x


def difference(arrays: dict[str, np.ndarray]) -> float:
    """How far :func:`apply_gates` is from what the module gave: ‖difference‖ / ‖output‖."""
    after = arrays['after'].astype(np.float64)
    norm = np.linalg.norm(after)
    return float(np.linalg.norm(apply_gates(arrays) - after) / (norm or 1.0))


def summary(arrays: dict[str, np.ndarray]) -> dict:
    """How each gate of a module is spread, and :func:`difference`, for JSON."""
    found = {'shape': arrays['before'].shape, 'difference': difference(arrays)}
    for key in ('height', 'width', 'channel'):
        if key in arrays:
            gate = arrays[key]
            values = dict(mean=gate.mean(), std=gate.std(), min=gate.min(), max=gate.max())
            found[key] = {name: float(value) for name, value in values.items()}
    return found


def pixel_gate(arrays: dict[str, np.ndarray], group: int | None = None) -> np.ndarray:
    """A_h · A_w (h, w), the mean over the channels of a group (0 to 3), or over all."""
    channels = slice(None)
    if group is not None:
        quarter = len(arrays['height']) // 4
        channels = slice(group * quarter, (group + 1) * quarter)
    rows, columns = arrays['height'][channels], arrays['width'][channels]
    return np.einsum('ch,cw->hw', rows, columns) / len(rows)

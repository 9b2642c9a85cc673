"""``SCSA`` and ``C2SCSA`` as layers of ultralytics' model YAMLs, once this is imported::

    import scsa.integrations.ultralytics
    from ultralytics import YOLO

    model = YOLO('yolo11n-scsa.yaml')

ultralytics is AGPL-3.0, which a product built with it must heed. It is no dependency of this
project, holds no line of ours and we none of its; only those who import this module use it.
"""

from typing import Any, Dict, Optional, Sequence, Union

import torch
from torch import Tensor, nn

from .. import attention

try:
    from ultralytics import __version__
    from ultralytics.nn import tasks
    from ultralytics.nn.modules.conv import Conv
except ImportError as error:
    raise ImportError(
        f'scsa.integrations.ultralytics needs ultralytics ({error}); '
        'install it: pip install ultralytics'
    ) from error


class SCSA(attention.SCSA):
    """:class:`scsa.SCSA` as a line of a YAML; it finds its channels::

        - [-1, 1, SCSA, []]
        - [-1, 1, SCSA, [{window_size: -1}]] # the other arguments, by name

    Args:
        channels: Those of all layers so far.
        source: Which of these it follows, the ``from`` of its line.
        cfg: The other arguments of :class:`scsa.SCSA`.
    """

    def __init__(
        self, channels: Sequence[int], source: int, cfg: Optional[Dict[str, Any]] = None
    ) -> None:
        super().__init__(_channel(channels, source), **_options('SCSA', cfg))


class C2SCSA(nn.Module):
    """YOLO11's ``C2PSA`` with SCSA where that has its attention, also as a line of a YAML::

        - [-1, 2, C2SCSA, [1024]]
        - [-1, 2, C2SCSA, [1024, {window_size: -1}]]

    A 1x1 convolution makes two halves; one goes through the blocks, each a residual SCSA and a
    residual feed-forward network; a 1x1 convolution joins them. The number of blocks scales with
    the depth of the model, as in C2PSA. As many channels go out as come in, which C2PSA demands
    too: the number in the YAML has no effect, and may be left out.

    Args:
        channels: Those of all layers so far.
        source: Which of these it follows, the ``from`` of its line.
        repeats: The number of blocks of the YAML.
        depth: What it is multiplied with.
        number: The number of channels of C2PSA.
        cfg: The other arguments of :class:`scsa.SCSA`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        source: int,
        repeats: int,
        depth: float,
        number: Union[int, Dict[str, Any], None] = None,
        cfg: Optional[Dict[str, Any]] = None,
    ) -> None:
        super().__init__()
        if isinstance(number, dict):
            number, cfg = None, number
        dim, cfg = _channel(channels, source, depth), _options('C2SCSA', cfg)
        half = dim // 2
        blocks = max(round(repeats * depth), 1)
        self.cv1 = Conv(dim, 2 * half, 1)
        self.m = nn.Sequential(*(SCSABlock(half, **cfg) for _ in range(blocks)))
        self.cv2 = Conv(2 * half, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        kept, mixed = self.cv1(x).chunk(2, 1)
        return self.cv2(torch.cat((kept, self.m(mixed)), 1))


class SCSABlock(nn.Module):
    """Residual SCSA, then a residual feed-forward network of two 1x1 convolutions."""

    def __init__(self, dim: int, **cfg: Any) -> None:
        super().__init__()
        self.attn = attention.SCSA(dim, **cfg)
        self.ffn = nn.Sequential(Conv(dim, 2 * dim, 1), Conv(2 * dim, dim, 1, act=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = x + self.attn(x)
        return x + self.ffn(x)


def _channel(channels: Sequence[int], source: int, depth: float = 1.0) -> int:
    """The number of channels of the layer that is followed."""
    if isinstance(channels, str) or isinstance(depth, str):  # not looked up
        raise RuntimeError(
            f'ultralytics {__version__} reads a model YAML in another way than 8.4.190, with which '
            'scsa is tested: install ultralytics==8.4.190'
        )
    return channels[source]


def _options(name: str, cfg: Any) -> Dict[str, Any]:
    """The arguments of SCSA in a line."""
    if cfg is None:
        return {}
    if not isinstance(cfg, dict):
        raise ValueError(
            f'{name} finds its channels and takes other arguments by name, not {cfg!r}: '
            f'[-1, 1, {name}, [{{window_size: 7}}]]'
        )
    return cfg


def parse_model(d: Dict[str, Any], ch: int, *args: Any, **kwargs: Any) -> Any:
    """Tell ultralytics' own ``parse_model`` where our layers get their channels, and call it.

    It gives a layer that it does not know the arguments of its line, and looks strings among them
    up in its local variables: ``ch`` there are the channels of all layers so far, ``depth`` is the
    scale of the repeats.
    """
    for line in [*d['backbone'], *d['head']]:
        source, repeats, name, arguments = line
        if name in ('SCSA', 'C2SCSA') and not isinstance(source, int):
            raise ValueError(
                f'{name} follows one layer, and not {source}; join them by Concat before'
            )
        if name == 'SCSA':
            line[3] = ['ch', source, *arguments]
        elif name == 'C2SCSA':
            line[1:] = [1, name, ['ch', source, repeats, 'depth', *arguments]]
    return ultralytics_parse_model(d, ch, *args, **kwargs)


ultralytics_parse_model = tasks.parse_model
tasks.parse_model = parse_model
tasks.SCSA, tasks.C2SCSA = SCSA, C2SCSA

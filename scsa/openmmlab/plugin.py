"""Attentions as plugin layers of the ResNet family in mmdet and mmseg; needs mmengine alone."""

from mmengine.registry import MODELS

from ..attention import PCSA, SCSA, SMSA
from ..attention.variants import ParallelSCSA, PCSABeforeSMSA, UnsharedSCSA


class Plugin:
    """Mixin that gives an attention the argument name under which mmcv passes a plugin's channels.

    As in ``plugins=[dict(cfg=dict(type='SCSA'), stages=(True,) * 4, position='after_conv2')]``. Its
    parameters are then called ``attn.…``, as in :class:`ResNetSCSA`. As the first argument is the
    number of channels, timm's attention hooks, which pass that by position, can take it too.

    Args:
        in_channels: Number of channels of the map.
        channel_ratio: What the map really has, over ``in_channels``. mmdet's Res2Net and mmseg's
            ResNeXt give the width of a plain ResNet, 64, to the plugins of a block with
            ``base_width * scales`` or ``base_width * groups`` channels: ``26 * 4 / 64`` by default
            in Res2Net, ``4 * 32 / 64`` in ResNeXt-32x4d.
        **cfg: The other arguments of the attention.
    """

    _abbr_ = 'attn'  # mmcv names the layer after this

    def __init__(self, in_channels: int, channel_ratio: float = 1.0, **cfg) -> None:
        super().__init__(round(in_channels * channel_ratio), **cfg)


@MODELS.register_module(name='SCSA')
class SCSAPlugin(Plugin, SCSA):
    """:class:`scsa.SCSA` as a layer of the registry."""


@MODELS.register_module(name='SMSA')
class SMSAPlugin(Plugin, SMSA):
    """:class:`scsa.SMSA` as a layer of the registry."""


@MODELS.register_module(name='PCSA')
class PCSAPlugin(Plugin, PCSA):
    """:class:`scsa.PCSA` as a layer of the registry."""


@MODELS.register_module(name='PCSABeforeSMSA')
class PCSABeforeSMSAPlugin(Plugin, PCSABeforeSMSA):
    """:class:`PCSABeforeSMSA` as a layer of the registry."""


@MODELS.register_module(name='ParallelSCSA')
class ParallelSCSAPlugin(Plugin, ParallelSCSA):
    """:class:`ParallelSCSA` as a layer of the registry."""


@MODELS.register_module(name='UnsharedSCSA')
class UnsharedSCSAPlugin(Plugin, UnsharedSCSA):
    """:class:`UnsharedSCSA` as a layer of the registry."""

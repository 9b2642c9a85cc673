"""Make ``import scsa`` enough for OpenMMLab: register whatever this installation can hold."""

import importlib
import os
import warnings
from importlib.util import find_spec

from . import versions


def register() -> None:
    """Import what registers itself, as far as OpenMMLab is installed.

    With mmengine that is the plugin layers and the config bases, with mmpretrain the backbones too.
    A package that is there but cannot be imported gives one warning that names the cause: the
    attention needs torch alone and goes on working. Versions that are known not to go together
    are warned of too. With ``SCSA_REGISTER=0`` in the environment nothing of OpenMMLab is imported,
    for programs that do without it: the imports take seconds.
    """
    if os.environ.get('SCSA_REGISTER') == '0':
        return
    if find_spec('mmengine'):
        versions.warn(stacklevel=3)
    for package, module in (
        ('mmengine', 'scsa.openmmlab.config_bases'),
        ('mmengine', 'scsa.openmmlab.plugin'),
        ('mmengine', 'scsa.openmmlab.timm_attention'),
        ('mmpretrain', 'scsa.backbones'),
    ):
        if find_spec(package) is None:
            return
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken install raises whatever it likes
            warnings.warn(
                f'scsa is not registered with {package}, whose import failed: '
                f'{type(error).__name__}: {error}',
                stacklevel=3,
            )
            return

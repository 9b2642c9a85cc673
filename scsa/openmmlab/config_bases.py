"""Lets a config anywhere inherit ours: ``_base_ = 'scsa::classification/….py'``.

Importing this module is all it takes. mmengine's own way would be an entry in its table of
packages: that resolves the path, but also marks what is read with ``_scope_='scsa'``, and mmengine
then looks for ``ImageClassifier`` in a registry of that name and fails. Ours are mmpretrain, mmdet
or mmseg configs and their ``default_scope`` says which; so a base of ours is resolved here, like a
local file, without a mark.
"""

from difflib import get_close_matches
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

PREFIX = 'scsa::'
CONFIGS = Path(__file__).parents[1] / '.mim' / 'configs'

_resolve = Config._get_cfg_path


def config_path(name: str) -> Path:
    """Returns the packed config of that name (``'classification/….py'``).

    Raises:
        FileNotFoundError: There is none; the message names the nearest, or the mend.
    """
    path = CONFIGS / name
    if path.is_file():
        return path
    known = [known.relative_to(CONFIGS).as_posix() for known in CONFIGS.glob('*/*.py')]
    if not known:
        raise FileNotFoundError(
            f'no configs in {CONFIGS}: scsa is used without being installed; '
            'run `pip install -e .` in its checkout'
        )
    (nearest,) = get_close_matches(name, known, n=1, cutoff=0)
    raise FileNotFoundError(f'scsa has no config {name!r}; the nearest is {nearest!r}')


def _get_cfg_path(cfg_path: str, filename: str):
    if cfg_path.startswith(PREFIX):
        return str(config_path(cfg_path[len(PREFIX) :])), None
    return _resolve(cfg_path, filename)


def _installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


Config._get_cfg_path = staticmethod(_get_cfg_path)

# The maintained fork ships mmseg under another distribution name than the one in the table.
if find_spec('mmseg') and not _installed(MODULE2PACKAGE['mmseg']):
    MODULE2PACKAGE['mmseg'] = 'mmseg'

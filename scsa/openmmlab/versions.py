"""Names combinations of packages that are known to fail, before they do, each with its mend.

A trouble is a warning and never an error: whoever patched a package knows better than we do.
"""

from __future__ import annotations

import re
import warnings
from importlib import metadata
from importlib.util import find_spec

# Distributions that own the same files.
RIVALS = (
    ('mmcv', 'mmcv-lite'),
    ('mmcv', 'onedl-mmcv'),
    ('mmcv-lite', 'onedl-mmcv'),
    ('mmengine', 'onedl-mmengine'),
    ('mmpretrain', 'onedl-mmpretrain'),
    ('mmdet', 'onedl-mmdetection'),
    ('mmsegmentation', 'onedl-mmsegmentation'),
)


def warn(stacklevel: int) -> None:
    """Gives one warning for each trouble of this installation."""
    for trouble in troubles(installed(), find_spec('pkg_resources') is not None):
        warnings.warn(trouble, stacklevel=stacklevel + 1)


def installed() -> dict[str, str]:
    """Returns the versions of the packages that troubles are about, as far as they are there."""
    found = {}
    for name in {'numpy', 'torch', *(name for pair in RIVALS for name in pair)}:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def troubles(versions: dict[str, str], pkg_resources: bool) -> list[str]:
    """Lists what is known to fail with these versions.

    Args:
        versions: The version of every distribution that is installed.
        pkg_resources: Whether that module, once a part of setuptools, can be imported.
    """
    found = [
        f"{one} and {other} are both installed and overwrite each other's files: "
        f'`pip uninstall {one} {other}`, then install one of them'
        for one, other in RIVALS
        if one in versions and other in versions
    ]

    def older(name: str, *than: int) -> bool:
        return name in versions and _release(versions[name]) < than

    def newer(name: str, *from_: int) -> bool:
        return name in versions and _release(versions[name]) >= from_

    if older('mmengine', 0, 10, 8) and newer('torch', 2, 6):
        found.append(
            f'mmengine {versions["mmengine"]} cannot load its own checkpoints with torch '
            f'{versions["torch"]}: use torch<2.6, or onedl-mmengine in place of mmengine'
        )
    if older('mmengine', 0, 10, 8) and not pkg_resources:
        found.append(
            f'mmengine {versions["mmengine"]} reads no config that inherits from another package '
            '(`mmdet::…`), for want of pkg_resources: `pip install "setuptools<81"`'
        )
    if older('torch', 2, 3) and newer('numpy', 2):
        found.append(
            f'torch {versions["torch"]} cannot take arrays of numpy {versions["numpy"]}: '
            '`pip install "numpy<2"`'
        )
    for package, fixed in (('mmdet', (3, 3, 1)), ('mmsegmentation', (1, 2, 3))):
        if older(package, *fixed) and newer('mmcv', 2, 2):
            found.append(
                f'{package} {versions[package]} refuses mmcv {versions["mmcv"]}: use mmcv<2.2'
            )
    return found


def _release(version: str) -> tuple[int, ...]:
    """Returns the numbers a version starts with: (2, 13, 0) of '2.13.0+cpu'."""
    return tuple(int(number) for number in re.match(r'[\d.]*\d', version)[0].split('.'))

"""What every tool shares: errors that speak to the person who can fix them.

Standard library only, so that a tool can say "not installed" in one line before it imports
anything heavy.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import Callable

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, the shell's convention


class UserError(Exception):
    """Something the person at the keyboard can fix; its message is one line that says how."""


def existing(path: str | Path, what: str, how: str) -> Path:
    """Returns `path` if it exists.

    Args:
        path: File or folder that must be there.
        what: What it is to the user ('annotation folder').
        how: How to get or change it ('download it from …', 'set --annotations').

    Raises:
        UserError: There is nothing at `path`.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f'{what} not found: {path}; {how}')
    return path


def needs(module: str, distribution: str) -> None:
    """Looks for a package that only some tools need, before they import it.

    Args:
        module: What is imported ('pytorch_grad_cam').
        distribution: What pip calls it ('grad-cam').

    Raises:
        UserError: It is not installed.
    """
    if find_spec(module) is None:
        raise UserError(f'{distribution} is not installed: pip install {distribution}')


OPENMMLAB = ('mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'mmseg')
# What pip calls a package, where that is not what is imported.
DISTRIBUTIONS = {
    'cv2': 'opencv-python',
    'PIL': 'pillow',
    'pytorch_grad_cam': 'grad-cam',
    'skimage': 'scikit-image',
    'sklearn': 'scikit-learn',
}


def install_help(module: str) -> str:
    """Says in one line how to get a module that cannot be imported."""
    package = module.split('.')[0]
    if module.startswith(('mmcv._ext', 'mmcv.ops')):
        return 'mmcv is here without its compiled operators: `make env-full` (docs/install.md)'
    if package in OPENMMLAB:
        return (
            f'{package} is not installed: `make env`, or `make env-full` for detection and '
            'segmentation (docs/install.md)'
        )
    return f'{package} is not installed: pip install {DISTRIBUTIONS.get(package, package)}'


def run(main: Callable[[], object]) -> None:
    """Runs a tool's `main` and turns what goes wrong into an exit code.

    A `UserError`, a package that is not installed, and a file the system refuses (`OSError`) end in
    one line on stderr and exit code 2; Ctrl-C ends in 130. With `SCSA_DEBUG=1` the traceback
    comes first. Everything else is a bug of ours and keeps its traceback.
    """
    debug = os.environ.get('SCSA_DEBUG') == '1'
    try:
        main()
    except (UserError, OSError, ModuleNotFoundError) as error:
        text = str(error)
        if isinstance(error, ModuleNotFoundError):
            if not error.name or error.name.split('.')[0] == 'scsa':
                raise  # a bug of ours
            text = install_help(error.name)
        if debug:
            traceback.print_exc()
        # At once: several processes may have the same to say.
        sys.stderr.write(f'error: {" ".join(text.split())}\n')
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        sys.exit(INTERRUPTED)

"""How SCSA is computed: the steps as functions, the paths through them, the switch between paths.

=============  ===================================================================================
``auto``       the fastest that the input allows (the default)
``eager``      PyTorch's own operations in place, keeping little but the input for the backward pass
``reference``  the published formulation step by step, to compare with
=============  ===================================================================================

The environment variable ``SCSA_BACKEND`` sets the path of a process, :func:`backend` that of a
block. A module that is compiled, scripted, traced or exported does not ask: it contains the plain
composition of the steps, which the compiler fuses. Each path loads when it is first taken.
"""

import os
from contextlib import contextmanager
from typing import Iterator

import torch
from torch import Tensor

BACKENDS = ('auto', 'eager', 'reference')
_backend = os.environ.get('SCSA_BACKEND', 'auto')

# Before torch 2.3 the question had no public name.
_is_compiling = getattr(torch.compiler, 'is_compiling', None) or torch._utils.is_compiling


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Compute SCSA by the path of that name inside the block, in all threads.

    Args:
        name: ``'auto'``, ``'eager'`` or ``'reference'``.

    Raises:
        ValueError: on another name.
    """
    global _backend
    previous, _backend = _backend, _known(name)
    try:
        yield
    finally:
        _backend = previous


def _known(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f'SCSA backend {name!r} is unknown; use one of {BACKENDS}')
    return name


def path_for(x: Tensor) -> str:
    """The path to take for a map: ``'plain'``, ``'eager'`` or ``'reference'``."""
    if _is_compiling() or torch.jit.is_tracing() or not isinstance(x, Tensor):  # fx passes proxies
        return 'plain'
    name = _known(_backend)
    if name == 'auto':
        # Elsewhere neither autocast nor the random state can be held fixed in one way for all.
        return 'eager' if x.device.type in ('cpu', 'cuda') else 'plain'
    return name

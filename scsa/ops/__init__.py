"""How SCSA is computed: the steps as functions, the paths through them, the switch between paths.

=============  ===================================================================================
``auto``       ``eager`` (the default); ``triton`` only once it is measured, see TRITON_IN_AUTO
``eager``      PyTorch's own operations in place, keeping little but the input for the backward pass
``triton``     kernels of our own for NVIDIA GPUs, or an error that says why not
``reference``  the published formulation step by step, to compare with
=============  ===================================================================================

The environment variable ``SCSA_BACKEND`` sets the path of a process, :func:`backend` that of a
block. A module that is compiled, scripted, traced or exported does not ask: it contains the plain
composition of the steps, which the compiler fuses. The Triton kernels load when first taken.
"""

import os
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from importlib.util import find_spec
from typing import ContextManager, Iterator

import torch
from torch import Tensor

BACKENDS = ('auto', 'eager', 'triton', 'reference')
LARGEST_IMAGE = 2**31 - 1  # values: the Triton kernels index within an image in 32 bits
# Whether 'auto' takes the Triton kernels on a CUDA GPU. Not before docs/benchmarks.md holds what
# `make gpu-check` measured with the present kernels on a real one.
TRITON_IN_AUTO = False
_backend = os.environ.get('SCSA_BACKEND', 'auto')

# Before torch 2.3 the question had no public name.
is_compiling = getattr(torch.compiler, 'is_compiling', None) or torch._utils.is_compiling


def no_autocast(x: Tensor) -> ContextManager:
    """Outside of autocast on the device of ``x``; where that is off, there is nothing to enter."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if _autocast_is_on(kind) else nullcontext()


def _autocast_is_on(kind: str) -> bool:
    try:
        return torch.is_autocast_enabled(kind)
    except TypeError:  # before torch 2.4, when it spoke of CUDA only
        return torch.is_autocast_cpu_enabled() if kind == 'cpu' else torch.is_autocast_enabled()


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Compute SCSA by the path of that name inside the block, in all threads.

    Args:
        name: ``'auto'``, ``'eager'``, ``'triton'`` or ``'reference'``.

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
    """The path that was asked for, as far as a map allows one; else ``'plain'``."""
    if is_compiling() or torch.jit.is_tracing() or not isinstance(x, Tensor):  # fx passes proxies
        return 'plain'
    name = _known(_backend)
    # Elsewhere neither autocast nor the random state can be held fixed in one way for all.
    return 'plain' if name == 'auto' and x.device.type not in ('cpu', 'cuda') else name


def use_triton(x: Tensor, averages: bool, path: str) -> bool:
    """Whether the Triton kernels are to compute this map.

    Args:
        x: (B, C, H, W).
        averages: Whether the module averages its windows: there are no kernels for the rest.
        path: What :func:`path_for` said.

    Raises:
        RuntimeError: if ``path`` names the kernels and they cannot.
    """
    asked = path == 'triton' or (path == 'auto' and TRITON_IN_AUTO and x.is_cuda)
    if not asked or x.size(0) == 0:
        return False
    obstacle = triton_obstacle(x, averages)
    if obstacle and path == 'triton':
        raise RuntimeError(f"SCSA backend 'triton': {obstacle}; 'auto' takes what can run")
    return not obstacle


def triton_obstacle(x: Tensor, averages: bool) -> str:
    """Why the Triton kernels cannot compute this map, or nothing."""
    version = triton_version()
    if version < 3:
        return f'needs Triton 3 or newer, found {version or "none"}'
    if not x.is_cuda and os.environ.get('TRITON_INTERPRET') != '1':
        return f"needs a map on a GPU, got one on '{x.device}'"
    if torch.version.hip:
        return 'has never been run on AMD GPUs'
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f'computes in float32 and takes maps of up to 32 bits, got {x.dtype}'
    if x.is_cuda and torch.cuda.get_device_capability(x.device) < (7, 0):
        return 'needs a GPU of compute capability 7.0 or newer'
    if span_of_image(x) > LARGEST_IMAGE:
        return f'takes images of up to {LARGEST_IMAGE} values, got one over {span_of_image(x)}'
    return '' if averages else "has no kernels for 'max_pool' and 'recombination'"


def span_of_image(x: Tensor) -> int:
    """Over how many places of memory one image spreads, there or once it lies without gaps."""
    sizes, strides = x.shape[1:], x.stride()[1:]
    span = 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides))
    return max(span, sizes.numel())


@lru_cache(None)
def triton_version() -> int:
    """Its major version, 0 where it is not installed."""
    if find_spec('triton') is None:
        return 0
    import triton

    return int(triton.__version__.split('.')[0])

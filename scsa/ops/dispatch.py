"""Who computes SCSA when: the switch between the paths, and the care for the Triton kernels."""

import os
import warnings
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import Callable, ContextManager, Iterator, Optional, Tuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from .passes import torch as torch_passes

BACKENDS = ('auto', 'eager', 'triton', 'reference')
OLDEST_TRITON = (3, 3)
LARGEST_IMAGE = 2**31 - 1  # values: the Triton kernels index within an image in 32 bits
WIDEST = 1024  # pixels: a program of the Triton kernels holds whole rows
# Whether 'auto' takes the Triton kernels on a CUDA GPU. On an H100 they take 0.4 to 0.9 of the time
# of the eager path, but there a network waits for Python, which they do not relieve; see
# docs/benchmarks.md.
TRITON_IN_AUTO = False
_backend = os.environ.get('SCSA_BACKEND', 'auto')
_failure: Optional[str] = None  # why 'auto' takes the Triton kernels no more in this process
_checked = set()  # devices on which they gave the numbers of the eager path

Result = TypeVar('Result')

# Before torch 2.3 the question had no public name.
is_compiling = getattr(torch.compiler, 'is_compiling', None) or torch._utils.is_compiling


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
    if is_compiling() or torch.jit.is_tracing():
        return 'plain'
    # torch.fx passes proxies; fake tensors, functional tensors and others are subclasses.
    if type(x) not in (Tensor, nn.Parameter):
        return 'plain'
    if torch._C._are_functorch_transforms_active() or _is_traced_by_make_fx():
        return 'plain'
    name = _known(_backend)
    # Elsewhere neither autocast nor the random state can be held fixed in one way for all.
    return 'plain' if name == 'auto' and x.device.type not in ('cpu', 'cuda') else name


def _is_traced_by_make_fx() -> bool:
    modes = _get_current_dispatch_mode_stack()
    return any(type(mode).__name__ == 'ProxyTorchDispatchMode' for mode in modes)


def passes_for(x: Tensor) -> ModuleType:
    """The passes over the map, in PyTorch or in Triton.

    Raises:
        RuntimeError: ``'triton'`` was asked for and cannot run; the message says why.
    """
    asked_for = _backend == 'triton'
    if not (asked_for or (_backend == 'auto' and wants_triton(x))) or x.size(0) == 0:
        return torch_passes
    reason = why_not_triton(x)
    if reason and asked_for:
        raise RuntimeError(f"SCSA backend 'triton': {reason}; 'auto' takes what can run")
    if reason:
        return torch_passes
    try:
        from .passes import triton as triton_passes

        interpreted = os.environ.get('TRITON_INTERPRET') == '1'
        if x.device not in _checked and not interpreted:
            from .first_use import check

            check(triton_passes, x.device)
            _checked.add(x.device)
    except Exception as error:  # a broken Triton raises whatever it likes
        _give_up(error)
        return torch_passes
    return triton_passes


def wants_triton(x: Tensor) -> bool:
    """Whether ``'auto'`` takes the Triton kernels where they can run."""
    return TRITON_IN_AUTO and x.is_cuda and not _failure


def attempt(passes: ModuleType, function: Callable[..., Result], *args) -> Result:
    """``function(passes, *args)``; again in PyTorch's own operations where the kernels fail.

    Raises:
        RuntimeError: The kernels failed, and were asked for by name.
    """
    if passes is not torch_passes:
        try:
            return function(passes, *args)
        except Exception as error:  # compiler, cache, launch, resources
            _give_up(error)
    return function(torch_passes, *args)


def _give_up(error: Exception) -> None:
    """Disable the Triton kernels for the process with one warning, or raise where asked for."""
    global _failure
    cause = f'{type(error).__name__}: {" ".join(str(error).split())}'
    _checked.clear()
    if _backend == 'triton':
        raise RuntimeError(f"SCSA backend 'triton' failed: {cause}") from error
    if not _failure:
        _failure = cause
        warnings.warn(
            f'the Triton kernels of SCSA are off in this process, the eager path goes on: {cause}',
            stacklevel=2,
        )


def why_not_triton(x: Tensor) -> str:
    """Why the Triton kernels cannot compute this map, or nothing."""
    version, oldest = triton_version(), '.'.join(map(str, OLDEST_TRITON))
    if version < OLDEST_TRITON:
        found = '.'.join(map(str, version)) or 'none'
        return f'needs Triton {oldest} or newer, found {found}'
    if not x.is_cuda and os.environ.get('TRITON_INTERPRET') != '1':
        return f"needs a map on a GPU, got one on '{x.device}'"
    if torch.version.hip:
        return 'has never been run on AMD GPUs'
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f'computes in float32 and takes maps of up to 32 bits, got {x.dtype}'
    if x.is_cuda and torch.cuda.get_device_capability(x.device) < (7, 0):
        return 'needs a GPU of compute capability 7.0 or newer'
    if x[0].numel() > LARGEST_IMAGE:
        return f'takes images of up to {LARGEST_IMAGE} values, got one of {x[0].numel()}'
    if x.size(3) > WIDEST:
        return f'takes maps of up to {WIDEST} columns, got {x.size(3)}'
    return ''


@lru_cache(None)
def triton_version() -> Tuple[int, ...]:
    """Its major and minor version, nothing where it is not installed."""
    if find_spec('triton') is None:
        return ()
    import triton

    return tuple(int(number) for number in triton.__version__.split('.')[:2])


def no_autocast(x: Tensor) -> ContextManager:
    """Outside of autocast on the device of ``x``; where that is off, there is nothing to enter."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if _autocast_is_on(kind) else nullcontext()


def _autocast_is_on(kind: str) -> bool:
    try:
        return torch.is_autocast_enabled(kind)
    except TypeError:  # before torch 2.4, when it spoke of CUDA only
        return torch.is_autocast_cpu_enabled() if kind == 'cpu' else torch.is_autocast_enabled()

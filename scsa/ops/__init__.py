"""How SCSA is computed.

=============  ===================================================================================
``auto``       ``eager``, the default: with ``triton`` no whole network was faster on an H100
``eager``      one autograd function, its passes over the map in PyTorch's own operations
``triton``     the same function, its passes as kernels for NVIDIA GPUs, or an error that says why
``reference``  the published formulation step by step, to compare with: PyTorch's own errors on maps
               below the window and on maps of another type than the parameters
=============  ===================================================================================

The environment variable ``SCSA_BACKEND`` sets the path of a process, :func:`backend` that of a
block. A module that is compiled, scripted, traced or exported, a tensor subclass and ``torch.func``
do not ask: they take the plain composition of :mod:`..attention.steps`, and so do second
derivatives.
"""

from .dispatch import backend, is_compiling, no_autocast, path_for

__all__ = ['backend', 'is_compiling', 'no_autocast', 'path_for']

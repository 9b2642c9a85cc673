"""Export a model to ONNX with the exporter of the installed torch, and compare the two.

torch 2.1 has one exporter, built on ``torch.jit.trace``. Newer releases have another, built on
``torch.export``, and keep the old one for now.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..cli import UserError, needs
from .swin import open_sizes

OPSET = 17  # of the exporter that traces; the other chooses its own
EXPORTERS = ('trace', 'dynamo')
BAR = 1e-4  # difference that is allowed, over the largest value of an output
INPUT = 'image'


def default_exporter() -> str:
    """``'dynamo'`` from torch 2.9 on, which made it the default; else ``'trace'``."""
    return 'dynamo' if _torch_release() >= (2, 9) else 'trace'


def _torch_release() -> tuple[int, ...]:
    return tuple(int(part) for part in torch.__version__.split('.')[:2])


def export(
    model: nn.Module,
    x: Tensor,
    path: str | Path,
    dynamic: bool = False,
    exporter: str | None = None,
) -> None:
    """Write a model as one ONNX file.

    Its input is called ``image`` and its outputs ``output``, or ``output0``, ``output1`` … if there
    are several.

    Args:
        model: A model in eval mode that takes one (B, C, H, W) tensor and gives a tensor, or a
            tuple of tensors.
        x: An example of its input.
        path: The file.
        dynamic: Whether batch, height and width stay open; else they are those of ``x``. Give an
            example of two images or more then, and for Swin one with two windows or more in its
            last stage: torch takes a size of one for a constant.
        exporter: ``'trace'`` or ``'dynamo'``; by default :func:`default_exporter`.

    Raises:
        UserError: onnx is not installed, the exporter is unknown or not in this torch, or it
            cannot export the model.
    """
    exporter = exporter or default_exporter()
    if exporter not in EXPORTERS:
        raise UserError(f'ONNX exporter {exporter!r} is unknown; use one of {EXPORTERS}')
    if exporter == 'dynamo' and _torch_release() < (2, 9):
        raise UserError(
            f"ONNX exporter 'dynamo' was tried from torch 2.9 on, and this is {torch.__version__}; "
            "use 'trace'"
        )
    for package in ('onnx', 'onnxscript') if exporter == 'dynamo' else ('onnx',):
        needs(package, package)
    with torch.no_grad():
        outputs = model(x)
    count = 1 if isinstance(outputs, Tensor) else len(outputs)
    names = ['output'] if count == 1 else [f'output{i}' for i in range(count)]
    axes = {0: 'batch', 2: 'height', 3: 'width'} if dynamic else None
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    settings = dict(input_names=[INPUT], output_names=names)
    if exporter == 'dynamo':
        shapes = (axes,) if dynamic else None
        settings.update(dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)
    else:
        named = {INPUT: axes, **{name: {0: 'batch'} for name in names}} if dynamic else None
        settings.update(opset_version=OPSET, dynamic_axes=named)
        if _torch_release() >= (2, 5):
            settings['dynamo'] = False
    try:
        with warnings.catch_warnings(), open_sizes(model):
            warnings.simplefilter('ignore')  # of the exporter, about itself and about constants
            torch.onnx.export(model, (x,), str(path), **settings)
    except Exception as error:  # each step of an exporter raises its own
        first = str(error).strip().splitlines()[0] if str(error).strip() else ''
        mend = 'try it without --dynamic' if dynamic else 'SCSA_DEBUG=1 shows all of it'
        raise UserError(
            f'torch {torch.__version__} cannot export this model to ONNX ({exporter}): '
            f'{type(error).__name__}: {first}; {mend}'
        ) from error


def session(path: str | Path, threads: int = 0):
    """Open a file in onnxruntime, on the CPU.

    Args:
        path: The file.
        threads: How many compute one operator; 0 for as many as there are cores.

    Raises:
        UserError: onnxruntime is not installed.
    """
    needs('onnxruntime', 'onnxruntime')
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; its warnings are about the folding of constants
    return onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])


def run(opened, x: Tensor) -> list[np.ndarray]:
    """All outputs of an opened file for an input."""
    return opened.run(None, {opened.get_inputs()[0].name: x.numpy()})


def difference(model: nn.Module, opened, x: Tensor) -> float:
    """How far the outputs of onnxruntime are from the model's own.

    Returns:
        The largest difference of any output, over the largest value of that output.

    Raises:
        UserError: onnxruntime fails, or its outputs are of another number or shape.
    """
    with torch.no_grad():
        expected = model(x)
    expected = [expected] if isinstance(expected, Tensor) else list(expected)
    try:
        found = run(opened, x)
    except Exception as error:  # onnxruntime raises a class for each kind of failure
        first = str(error).strip().splitlines()[0]
        raise UserError(f'onnxruntime fails at an input of {tuple(x.shape)}: {first}') from error
    shapes = [tuple(e.shape) for e in expected], [f.shape for f in found]
    if shapes[0] != shapes[1]:
        raise UserError(f'the model gives {shapes[0]} for {tuple(x.shape)}, the file {shapes[1]}')
    return max(
        float(np.abs(e.numpy() - f).max() / max(np.abs(e.numpy()).max(), 1e-30))
        for e, f in zip(expected, found)
    )

"""Static quantisation of an exported classifier to int8, by onnxruntime's own tool.

Convolutions and linear layers are computed in int8, with a scale for each channel of a kernel;
everything else, the attention's softmax and products among it, stays in float32.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Iterable

import numpy as np

from ..cli import UserError, needs
from .onnx import INPUT

OPERATORS = ('Conv', 'Gemm')


def quantise(source: str | Path, target: str | Path, images: Iterable[np.ndarray]) -> None:
    """Write a file of int8 beside one of float32.

    Args:
        source: An ONNX file of :func:`.onnx.export`.
        target: The file to write.
        images: Normalised (1, C, H, W) images that show the range of all values.

    Raises:
        UserError: onnx or onnxruntime is not installed, or there is no image.
    """
    for package in ('onnx', 'onnxruntime'):
        needs(package, package)
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(images)
            self.count = 0

        def get_next(self) -> dict | None:
            image = next(self.left, None)
            self.count += image is not None
            return None if image is None else {INPUT: image}

    reader = Images()
    with TemporaryDirectory() as scratch:
        prepared = Path(scratch, 'prepared.onnx')
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        try:
            quantize_static(
                str(prepared), str(target), reader, op_types_to_quantize=list(OPERATORS),
                per_channel=True, weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
                # Seven bits of a weight: processors without VNNI add pairs of products in 16 bits.
                reduce_range=True,
            )  # fmt: skip
        except ValueError as error:
            if reader.count:
                raise
            raise UserError('no image to calibrate on: give --images 1 or more') from error


def top1(opened, images: Iterable[tuple[np.ndarray, int]]) -> float:
    """Percent of (image, label) pairs that an opened file classifies right."""
    right = [opened.run(None, {INPUT: x})[0].argmax() == label for x, label in images]
    return 100 * float(np.mean(right))


def milliseconds(openeds: list, image: np.ndarray, repeats: int = 50) -> list[float]:
    """The median time of one image for each opened file, in turn."""
    times = [[] for _ in openeds]
    for _ in range(repeats + 3):
        for opened, found in zip(openeds, times):
            start = time.perf_counter()
            opened.run(None, {INPUT: image})
            found.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(found[3:]) for found in times]

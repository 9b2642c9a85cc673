"""Write pictures, and the numbers that they show beside them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

DPI = 120


def add_output_arguments(parser: argparse.ArgumentParser, out_dir: str) -> None:
    """``--out-dir`` with a default, and ``--format``."""
    parser.add_argument('--out-dir', type=Path, default=Path(out_dir), help='[%(default)s]')
    parser.add_argument(
        '--format',
        nargs='+',
        choices=['png', 'svg'],
        default=['png'],
        dest='formats',
        help='of the pictures, one or both [png]',
    )


def save_figure(figure: Figure, stem: Path, formats: list[str]) -> list[Path]:
    """Write a figure as ``STEM.png``, ``STEM.svg`` or both, and close it."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f'{stem.name}.{kind}') for kind in formats]
    for path in paths:
        figure.savefig(path, dpi=DPI)
    plt.close(figure)
    return paths


def save_arrays(path: Path, **arrays: np.ndarray) -> Path:
    """Write arrays as a compressed ``.npz``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


def save_json(path: Path, content: object) -> Path:
    """Write what JSON can hold, NumPy's numbers and arrays too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, ensure_ascii=False, default=_plain)
    path.write_text(text + '\n', 'utf-8')
    return path


def _plain(value: object) -> object:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f'{type(value).__name__} cannot be written as JSON')

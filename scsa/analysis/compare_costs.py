"""What each config of a comparison costs: size, FLOPs, and measured speed and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from mmengine.config import Config

from ..cli import UserError
from .compare import Candidate, environment
from .complexity import build, count_flops, count_parameters, standard_input


def size_of(config: Candidate, shape: tuple[int, int] | None = None) -> dict:
    """Parameters and GFLOPs of an image of that shape, as far as they can be counted."""
    cfg = Config.fromfile(config.path)
    try:
        model = build(cfg)
        found = dict(parameters=count_parameters(model))
        return dict(found, gflops=count_flops(model, *(shape or standard_input(cfg))) / 1e9)
    except Exception as error:  # another's model may refuse to be traced in any way
        print(f'{config.name}: not counted: {type(error).__name__}: {first_line(error)}')
        return locals().get('found', {})


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [''])[0]


def measure(
    configs: list[Candidate],
    out: Path,
    tools: Path,
    batch: int,
    repeats: int,
    gpu: str | None,
    shape: tuple[int, int] | None = None,
) -> dict[str, dict]:
    """Images a second and peak memory, configs in turn, by ``tools/analysis/benchmark.py``.

    What was measured before for the same configs and batch is taken from its files.

    Args:
        configs: What to measure. Those whose images have another size are measured apart.
        out: Folder of the comparison.
        tools: Folder of the tools.
        batch: Images of a step.
        repeats: Steps to time.
        gpu: Which GPU to use, if several are there.
        shape: Height and width of the images, if they are not to be the configs' own.
    """
    groups = defaultdict(list)
    for config in configs:
        groups[shape or standard_input(config.cfg)].append(config)
    found: dict[str, dict] = defaultdict(dict)
    for (height, width), group in groups.items():
        for mode in ('train', 'test'):
            file = out / 'speed' / f'{mode}_{height}x{width}.json'
            paths = [str(config.path) for config in group]
            if not _is_of(file, paths, batch):
                _benchmark(tools, file, [
                    *paths, '--batch', batch, '--size', height, width, '--repeats', repeats,
                    *(['--train'] if mode == 'train' else []),
                ], gpu)  # fmt: skip
            for config, row in zip(group, json.loads(file.read_text('utf-8'))['rows']):
                found[config.name][f'{mode}_images_per_second'] = row['images_per_second']
                if mode == 'train':
                    found[config.name]['peak_mb'] = row['peak'] / 1e6
    return found


def _is_of(file: Path, paths: list[str], batch: int) -> bool:
    if not file.exists():
        return False
    try:
        rows = json.loads(file.read_text('utf-8'))['rows']
    except ValueError:  # killed while it was written
        return False
    return [(row['model'], row['batch']) for row in rows] == [(path, batch) for path in paths]


def _benchmark(tools: Path, file: Path, arguments: list, gpu: str | None) -> None:
    command = [sys.executable, tools / 'analysis' / 'benchmark.py', 'model', *arguments,
               '--out', file]  # fmt: skip
    done = subprocess.run(
        list(map(str, command)),
        env={**environment(), **({'CUDA_VISIBLE_DEVICES': gpu} if gpu else {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f'benchmark.py ended with {done.returncode}']
        raise UserError(f'speed not measured: {lines[-1]}')

"""Time and memory of SCSA by each of its paths. Needs PyTorch, and Triton for its path."""

from __future__ import annotations

import itertools
import math
from typing import Callable, Iterable, Iterator

import torch
from torch import Tensor

from ..attention import SCSA, scsa_reference
from ..ops import backend
from ..ops.dispatch import OLDEST_TRITON, triton_version
from .timing import bytes_kept, geometric_mean, in_turn, peak_bytes, summary

STAGES = ((64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7))  # of a ResNet-50 at 224 x 224
SWEEPS = {
    'pixels': [(1, 64, side, side) for side in (14, 28, 56, 112, 224, 448)],
    'channels': [(16, channels, 14, 14) for channels in (32, 64, 128, 256, 512, 1024, 2048)],
}
PATHS = ('reference', 'eager', 'compiled', 'triton')
LAYOUTS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}


def module_calls(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    layout: str,
    device: torch.device,
    paths: Iterable[str],
) -> tuple[SCSA, Tensor, dict[str, Callable[[Tensor], Tensor]]]:
    """A module, a map as a ReLU leaves it, and the module as a function by each path."""
    torch.manual_seed(0)
    module = SCSA(shape[1]).to(device)
    x = torch.randn(shape).relu().to(device, dtype).contiguous(memory_format=LAYOUTS[layout])
    autocast = dtype in (torch.float16, torch.bfloat16)
    compiled = torch.compile(module)

    def by(path: str) -> Callable[[Tensor], Tensor]:
        def call(x: Tensor) -> Tensor:
            half = dtype if autocast else torch.bfloat16
            with torch.autocast(device.type, half, autocast, cache_enabled=False):
                if path == 'reference':
                    return scsa_reference(module, x)
                if path == 'compiled':
                    return compiled(x)
                with backend(path):
                    return module(x)

        return call

    return module, x, {path: by(path) for path in paths}


def measure_module(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    layout: str,
    device: torch.device,
    paths: Iterable[str],
    repeats: int,
) -> list[dict]:
    """One row for each path and pass, in `ms`, with ratios to the reference and to a copy."""
    module, x, calls = module_calls(shape, dtype, layout, device, paths)
    exact = SCSA(shape[1]).to(device).double()
    exact.load_state_dict(module.state_dict())
    with torch.no_grad():
        expected = scsa_reference(exact, x.double())
        errors = {
            path: ((call(x).double() - expected).abs().max() / expected.abs().max()).item()
            for path, call in calls.items()
        }
    del exact, expected
    target, grad = torch.empty_like(x), torch.randn_like(x)
    tensors = [x, *module.parameters()]

    def forward(call: Callable) -> Callable:
        return torch.no_grad()(lambda: call(x))

    def both(call: Callable) -> Callable:
        return lambda: torch.autograd.grad(call(x), tensors, grad)

    rows = []
    for name, of, training in (('forward', forward, False), ('forward + backward', both, True)):
        module.train(training)
        x.requires_grad_(training)
        timed = {path: of(call) for path, call in calls.items()}
        timed['copy'] = torch.no_grad()(lambda: target.copy_(x))
        times = in_turn(timed, device, repeats)
        found = {path: summary(t) for path, t in times.items()}
        for path, figures in found.items():
            row = dict(
                shape=list(shape), dtype=str(dtype)[6:], layout=layout, device=device.type,
                passes=name, path=path, **figures, over_copy=figures['ms'] / found['copy']['ms'],
            )  # fmt: skip
            if 'reference' in found:
                row['reference_over'] = found['reference']['ms'] / figures['ms']
            if path != 'copy':
                row['error'] = errors[path]
                row['peak'] = peak_bytes(timed[path], device)
                if training:
                    kept = bytes_kept(calls[path], module, x)
                    row['kept'] = kept / (x.numel() * x.element_size())
            rows.append(row)
    return rows


def measure_modules(
    shapes: Iterable[tuple[int, ...]],
    dtypes: Iterable[torch.dtype],
    layouts: Iterable[str],
    device: torch.device,
    paths: Iterable[str],
    repeats: int,
) -> Iterator[dict]:
    """The rows of every combination, as they come."""
    for shape, dtype, layout in itertools.product(shapes, dtypes, layouts):
        torch._dynamo.reset()  # each shape is compiled as if it were the only one
        yield from measure_module(shape, dtype, layout, device, paths, repeats)


def measure_sweeps(device: torch.device, paths: Iterable[str], repeats: int) -> Iterator[dict]:
    """The rows of SWEEPS in float32, marked by the name of the sweep."""
    for name, shapes in SWEEPS.items():
        layouts = ['contiguous']
        for row in measure_modules(shapes, [torch.float32], layouts, device, paths, repeats):
            yield dict(row, sweep=name)


def paths_of(device: torch.device) -> list[str]:
    """The paths that can run on a device here."""
    return [
        path
        for path in PATHS
        if path != 'triton' or (device.type == 'cuda' and triton_version() >= OLDEST_TRITON)
    ]


def geometric_means(rows: list[dict]) -> list[str]:
    """Reference over each path, over all shapes, one line for each path and pass."""
    lines = []
    groups = {(r['passes'], r['path'], r['dtype'], r['layout']) for r in rows}
    for passes, path, dtype, layout in sorted(groups):
        ratios = [
            r['reference_over']
            for r in rows
            if (r['passes'], r['path'], r['dtype'], r['layout']) == (passes, path, dtype, layout)
            and r['path'] not in ('copy', 'reference')
            and 'reference_over' in r
        ]
        if ratios:
            lines.append(
                f'{passes}, {dtype}, {layout}: reference / {path} = {geometric_mean(ratios):.2f} '
                f'(geometric mean of {len(ratios)})'
            )
    return lines


HEADER = (
    f'{"map":>16} {"type":>8} {"layout":>13} {"passes":>18} {"path":>9} '
    f'{"ms":>9} {"quartiles":>17} {"x copy":>7} {"ref /":>6} {"kept":>5} {"peak MB":>8} '
    f'{"error":>7}'
)


def line(row: dict) -> str:
    """A row as text under HEADER."""
    shape = 'x'.join(map(str, row['shape']))
    return (
        f'{shape:>16} {row["dtype"]:>8} {row["layout"]:>13} {row["passes"]:>18} {row["path"]:>9} '
        f'{row["ms"]:9.3f} {row["low"]:8.3f}-{row["high"]:8.3f} {row["over_copy"]:7.1f} '
        f'{row.get("reference_over", math.nan):6.2f} {row.get("kept", math.nan):5.2f} '
        f'{row.get("peak", math.nan) / 1e6:8.1f} {row.get("error", math.nan):7.0e}'
    ).replace('nan', '  -')

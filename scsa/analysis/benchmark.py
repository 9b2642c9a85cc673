"""Time and memory of SCSA by each of its paths, and of whole models with it and without.

Everything is timed in turn in one process, so that what disturbs the machine disturbs all alike,
and given as median and quartiles. Modules need nothing but PyTorch (and Triton for its path).
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import itertools
import json
import math
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from ..attention import SCSA, scsa_reference
from ..cli import UserError
from ..kernels import backend, triton_version
from .resnet import ResNet50

STAGES = ((64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7))  # of a ResNet-50 at 224 x 224
SWEEPS = {
    'pixels': [(1, 64, side, side) for side in (14, 28, 56, 112, 224, 448)],
    'channels': [(16, channels, 14, 14) for channels in (32, 64, 128, 256, 512, 1024, 2048)],
}
PATHS = ('reference', 'eager', 'compiled', 'triton')
LAYOUTS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}
REPLAYS = 10  # of a CUDA graph between two events


def machine() -> dict[str, str]:
    """What the figures were taken on and with."""
    facts = dict(
        date=datetime.date.today().isoformat(),
        command=' '.join(['python', *sys.argv]),
        processor=_processor(),
        threads=str(torch.get_num_threads()),
        system=f'{platform.system()} {platform.release()}',
        python=platform.python_version(),
        torch=torch.__version__,
    )
    for name in ('triton', 'mmengine', 'mmcv', 'mmpretrain'):
        with contextlib.suppress(Exception):  # not installed, or broken: then it was not used
            facts[name] = importlib.import_module(name).__version__
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        facts.update(
            gpu=f'{torch.cuda.get_device_name()} {memory:.0f} GiB', cuda=torch.version.cuda
        )
    return facts


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.split(':')[1].strip()
    return platform.processor() or platform.machine()


# Timing


def in_turn(
    calls: dict[str, Callable], device: torch.device, repeats: int, warmup: int = 3
) -> dict[str, list[float]]:
    """Milliseconds of each call, one after the other, `repeats` times over.

    On a GPU that is the time of the kernels alone where a CUDA graph can hold the call, for then
    it is replayed: what a training run sees that is never short of launches.
    """
    if device.type == 'cuda':
        calls = {name: _graph(call) for name, call in calls.items()}
    for call in list(calls.values()) * warmup:
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(_milliseconds(call, device))
    return times


def _milliseconds(call: Callable, device: torch.device) -> float:
    if device.type != 'cuda':
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e3
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(REPLAYS):
        call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / REPLAYS


def _graph(call: Callable) -> Callable:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError:  # it waits for the GPU somewhere
        torch.cuda.synchronize()
        return call
    return graph.replay


def summary(times: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return dict(ms=middle, low=low, high=high)


# Memory


def bytes_kept(function: Callable, module: nn.Module, x: Tensor) -> int:
    """Bytes of unique storages that the backward pass needs, the input counted, parameters not."""
    kept = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = function(x)  # held: an address must not be used twice
    for parameter in module.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    del out
    return sum(kept.values())


def peak_bytes(call: Callable, device: torch.device) -> int:
    """The most bytes that are allocated at a time during a call, beyond those before it."""
    if device.type == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        call()
    now = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == '[memory]':
            now += event.nbytes()
            peak = max(peak, now)
    return peak


# Modules


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
    target, d_out = torch.empty_like(x), torch.randn_like(x)
    tensors = [x, *module.parameters()]

    def forward(call: Callable) -> Callable:
        return torch.no_grad()(lambda: call(x))

    def both(call: Callable) -> Callable:
        return lambda: torch.autograd.grad(call(x), tensors, d_out)

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
        if path != 'triton' or (device.type == 'cuda' and triton_version() > 2)
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


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


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


# Models


def build_model(name: str) -> nn.Module:
    """A model from a config file, or ``resnet50`` or ``resnet50_scsa`` without OpenMMLab.

    Raises:
        UserError: if it is neither.
    """
    if name in ('resnet50', 'resnet50_scsa'):
        return ResNet50(attention=name.endswith('_scsa'))
    if not Path(name).is_file():
        raise UserError(f'config not found: {name}; or use resnet50 or resnet50_scsa')
    from mmengine.config import Config

    from .complexity import build

    return build(Config.fromfile(name))


class ModelRun:
    """One step of a model on random images, in evaluation or training.

    Args:
        name: What :func:`build_model` takes.
        device: Where to run.
        size: Height and width of the images.
        training: A step of SGD on the sum of squares of the outputs, rather than the outputs.
        amp: Whether to run under autocast, float16 on a GPU, bfloat16 on the CPU.
        compiled: Whether to compile the model.
        backbone: Whether to leave neck and head out.
    """

    def __init__(
        self,
        name: str,
        device: torch.device,
        size: tuple[int, int],
        training: bool = False,
        amp: bool = False,
        compiled: bool = False,
        backbone: bool = False,
    ) -> None:
        torch.manual_seed(0)
        model = build_model(name)
        self.model = (model.backbone if backbone else model).to(device)
        self.model.train(training)  # mmpretrain's ResNet returns None
        self.name, self.device, self.size = name, device, size
        self.training, self.amp = training, amp
        self.function = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-9, momentum=0.9)
        self.scaler = torch.cuda.amp.GradScaler(enabled=amp and training and device.type == 'cuda')

    def images(self, batch: int) -> Tensor:
        return torch.randn(batch, 3, *self.size, device=self.device)

    def loss(self, images: Tensor) -> Tensor:
        half = torch.float16 if self.device.type == 'cuda' else torch.bfloat16
        with torch.autocast(self.device.type, half, self.amp):
            outputs = self.function(images)
        return sum(out.float().square().sum() for out in _tensors(outputs))

    def step(self, images: Tensor) -> None:
        if not self.training:
            with torch.no_grad():
                self.loss(images)
            return
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(self.loss(images)).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()


def _tensors(outputs) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for output in outputs for tensor in _tensors(output)]


def measure_models(runs: list[ModelRun], batch: int, repeats: int, warmup: int = 2) -> list[dict]:
    """Images a second of each model at one batch size, in turn, and bytes kept when training."""
    rows = []
    device, images = runs[0].device, runs[0].images(batch)
    times: dict[str, list[float]] = {run.name: [] for run in runs}
    for number in range(warmup + repeats):
        for run in runs:
            if device.type == 'cuda':
                torch.cuda.synchronize()
            start = time.perf_counter()
            run.step(images)
            if device.type == 'cuda':
                torch.cuda.synchronize()
            if number >= warmup:
                times[run.name].append((time.perf_counter() - start) * 1e3)
    first = statistics.median(times[runs[0].name])
    for run in runs:
        figures = summary(times[run.name])
        row = dict(model=run.name, batch=batch, size=list(run.size), training=run.training,
                   amp=run.amp, device=device.type, **figures,
                   images_per_second=batch / figures['ms'] * 1e3,
                   speed_over_first=first / figures['ms'])  # fmt: skip
        if run.training:
            row['kept_per_image'] = bytes_kept(run.loss, run.model, images) / batch
        row['peak'] = peak_bytes(lambda run=run: run.step(images), device)
        rows.append(row)
    return rows


def largest_batch(run: ModelRun, start: int = 1) -> int:
    """The largest batch, by doubling and then halving the interval, that fits the GPU."""
    fits, fails = 0, None
    batch = start
    while fails is None or fails - fits > max(1, fits // 16):
        try:
            run.step(run.images(batch))
            torch.cuda.synchronize()
            fits = batch
        except torch.cuda.OutOfMemoryError:
            fails = batch
        torch.cuda.empty_cache()
        batch = fits * 2 if fails is None else (fits + fails) // 2
    return fits


def published_protocol(run: ModelRun) -> float:
    """Images a second as the published tool takes them: batch 64, 50 runs to warm up, 30 timed."""
    images = run.images(64)
    for _ in range(50):
        run.step(images)
    if run.device.type == 'cuda':
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(30):
        run.step(images)
    if run.device.type == 'cuda':
        torch.cuda.synchronize()
    return 30 * 64 / (time.perf_counter() - start)


# Results


def table(rows: list[dict]) -> str:
    """Rows of models as text."""
    lines = [
        f'{"model":32} {"pass":>10} {"batch":>5} {"images/s":>9} {"ms":>9} {"quartiles":>19} '
        f'{"x first":>7} {"kept MB/image":>13} {"peak MB":>8}'
    ]
    for row in rows:
        passes = ('train' if row['training'] else 'eval') + (' amp' if row['amp'] else '')
        kept = f'{row["kept_per_image"] / 1e6:13.1f}' if 'kept_per_image' in row else f'{"-":>13}'
        lines.append(
            f'{Path(row["model"]).stem:32} {passes:>10} {row["batch"]:5} '
            f'{row["images_per_second"]:9.1f} {row["ms"]:9.1f} '
            f'{row["low"]:9.1f}-{row["high"]:9.1f} '
            f'{row["speed_over_first"]:7.3f} {kept} {row["peak"] / 1e6:8.0f}'
        )
    return '\n'.join(lines)


def save(path: Path, rows: list[dict]) -> None:
    """Write rows and machine to a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(machine=machine(), rows=rows), indent=1) + '\n', 'utf-8')

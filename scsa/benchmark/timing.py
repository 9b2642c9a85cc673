"""What all benchmarks share: the machine, timing in turn, memory, and the file of results.

Everything is timed in turn in one process, so that what disturbs the machine disturbs all alike,
and given as median and quartiles. Nothing here needs more than PyTorch.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import json
import math
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Callable

import torch
from torch import Tensor, nn

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
    if len(times) == 1:
        times = times * 2
    low, middle, high = statistics.quantiles(times, n=4, method='inclusive')
    return dict(ms=middle, low=low, high=high)


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


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


def save(path: Path, rows: list[dict]) -> None:
    """Write rows and machine to a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(machine=machine(), rows=rows), indent=1) + '\n', 'utf-8')

"""The bars of SCSA: what it is to cost at most, measured and held against that.

A group measures what belongs together and gives a :class:`Bar` for each figure. Everything needs
PyTorch alone, but for the groups that build models from configs.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

import torch

from ..attention import SCSA, scsa_reference
from ..ops import backend
from . import models, modules, timing

CONFIGS = Path(__file__).parents[2] / 'configs'
KEPT = (1.07, 1.10, 1.18, 1.35)  # at the four stages, in bytes of the input
KEPT_BEYOND = dict(resnet50_1xb128_in1k=8.0, **{'mobilenet-v2_1xb96_in1k': 13.0})  # MiB an image
EPOCHS = 5
MANY_SMALL, ONE_LARGE = (64, 64, 56, 56), (1, 64, 448, 448)  # as many pixels
DETECTION = (800, 1333)
ACCURACY = {torch.float32: 1e-5, torch.float16: 2e-3}
GPU_BATCH = 128
GPU_SPEED = dict(eval=0.88, train=0.85)

Show = Callable[[str], object]


class Bar(NamedTuple):
    """A figure and its limit."""

    what: str
    limit: float
    figure: float = math.nan
    at_least: bool = False
    missing: str = ''  # why there is no figure

    @property
    def verdict(self) -> str:
        if self.missing:
            return f'not measured: {self.missing}'
        met = self.figure >= self.limit if self.at_least else self.figure <= self.limit
        return 'met' if met else 'MISSED'

    def row(self) -> dict:
        """As JSON has it."""
        figure = None if self.missing else self.figure
        return dict(self._asdict(), figure=figure, verdict=self.verdict)


def measure(device: torch.device, groups: list[str], repeats: int, show: Show) -> Iterator[Bar]:
    """The bars of each group, as they come; `show` gets the figures behind them line by line."""
    for name in groups:
        yield from GROUPS[device.type][name](device, repeats, show)


def table(bars: list[Bar]) -> str:
    """The bars as a table in Markdown."""
    lines = ['| what | bar | measured | |', '|---|---|---|---|']
    for bar in bars:
        sign = '≥' if bar.at_least else '≤'
        figure = '' if bar.missing else f'{bar.figure:.3g}'
        lines.append(f'| {bar.what} | {sign} {bar.limit:g} | {figure} | {bar.verdict} |')
    return '\n'.join(lines)


def _stage_rows(batch, dtype, device, paths, repeats, show: Show) -> list[dict]:
    shapes = [(batch, *stage) for stage in modules.STAGES]
    show(modules.HEADER)
    rows = []
    for row in modules.measure_modules(shapes, [dtype], ['contiguous'], device, paths, repeats):
        show(modules.line(row))
        rows.append(row)
    return rows


def _chosen(rows: list[dict], path: str, passes: str, key: str) -> list[float]:
    return [row[key] for row in rows if (row['path'], row['passes']) == (path, passes)]


def cpu_stages(device: torch.device, repeats: int, show: Show) -> Iterator[Bar]:
    """Speed over the reference, and bytes kept, at the four stages of a ResNet-50."""
    paths = ('reference', 'eager', 'compiled')
    rows = _stage_rows(16, torch.float32, device, paths, repeats, show)
    for path, passes, limit in (
        ('eager', 'forward', 2.0),
        ('eager', 'forward + backward', 1.8),
        ('compiled', 'forward', 2.8),
    ):
        mean = timing.geometric_mean(_chosen(rows, path, passes, 'reference_over'))
        yield Bar(f'{path} {passes}, four stages: reference / ours', limit, mean, at_least=True)
    kept = _chosen(rows, 'eager', 'forward + backward', 'kept')
    for stage, limit, figure in zip(modules.STAGES, KEPT, kept):
        shape = '×'.join(map(str, stage))
        yield Bar(f'bytes kept / bytes of input at {shape}', limit, figure)


def cpu_networks(device: torch.device, repeats: int, show: Show) -> Iterator[Bar]:
    """What whole backbones keep for the backward pass beyond their plain selves."""
    for name, limit in KEPT_BEYOND.items():
        what = f'MiB kept per image at 224² beyond plain, {name.partition("_")[0]}'
        missing = _missing('mmpretrain')
        if missing:
            yield Bar(what, limit, missing=missing)
            continue
        plain, scsa = (_kept_per_image(name + end, device) for end in ('', '_scsa'))
        show(f'{name}: plain {plain:.1f} MiB an image, with SCSA {scsa:.1f}')
        yield Bar(what, limit, scsa - plain)


def _kept_per_image(config: str, device: torch.device, batch: int = 4) -> float:
    path = CONFIGS / 'classification' / f'{config}.py'
    run = models.ModelRun(str(path), device, (224, 224), training=True, backbone=True)
    return timing.bytes_kept(run.function, run.model, run.images(batch)) / batch / 2**20


def cpu_digits(device: torch.device, repeats: int, show: Show) -> Iterator[Bar]:
    """A training epoch of the digits quick start over that of its plain backbone."""
    what, limit = 'training epoch of the digits quick start / plain backbone', 2.0
    missing = _missing('mmpretrain')
    if not missing and not Path('data/digits').is_dir():
        missing = 'no data/digits here; run tools/dataset_converters/digits.py'
    if missing:
        yield Bar(what, limit, missing=missing)
        return
    calls = {name: digits_epoch(name) for name in ('resnet18_digits', 'resnet18_digits_scsa')}
    times = timing.in_turn(calls, device, EPOCHS, warmup=1)
    yield _ratio(what, limit, times, show)


def digits_epoch(name: str) -> Callable[[], None]:
    """One training epoch of a quick start, loading and preprocessing included."""
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import MODELS, DefaultScope
    from mmengine.runner import Runner

    from ..engine.config import set_loader_defaults

    cfg = Config.fromfile(CONFIGS / 'quickstart' / f'{name}.py')
    set_loader_defaults(cfg)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)

    def epoch() -> None:
        for batch in loader:
            model.train_step(batch, optim_wrapper)

    return epoch


def cpu_growth(device: torch.device, repeats: int, show: Show) -> Iterator[Bar]:
    """One large map over many small ones of as many pixels in all."""
    small, large = ('×'.join(map(str, shape)) for shape in (MANY_SMALL, ONE_LARGE))
    module = SCSA(64).to(device)
    maps = {
        small: torch.randn(MANY_SMALL, device=device),
        large: torch.randn(ONE_LARGE, device=device),
    }
    tensors = list(module.parameters())

    def forward(x):
        return torch.no_grad()(lambda: module(x))

    def both(x):
        x.requires_grad_()
        grad = torch.randn_like(x)
        return lambda: torch.autograd.grad(module(x), [x, *tensors], grad)

    for passes, of in (('forward', forward), ('forward + backward', both)):
        with backend('eager'):
            times = timing.in_turn({n: of(x) for n, x in maps.items()}, device, repeats)
        yield _ratio(f'growth, {passes}: {large} / {small}', 1.5, times, show)


def cpu_detection(device: torch.device, repeats: int, show: Show) -> Iterator[Bar]:
    """A whole ResNet-50 at the size of detection, evaluation, over the plain one."""
    runs = [models.ModelRun(n, device, DETECTION) for n in ('resnet50', 'resnet50_scsa')]
    rows = models.measure_models(runs, 1, repeats)
    show(models.table(rows))
    what = f'{DETECTION[0]}×{DETECTION[1]} ResNet-50 evaluation / plain'
    yield Bar(what, 1.12, 1 / rows[1]['speed_over_first'])


def gpu_stages(device: torch.device, repeats: int, show: Show) -> Iterator[Bar]:
    """The Triton kernels under autocast over a copy, and the reference over them."""
    missing = '' if 'triton' in modules.paths_of(device) else 'needs Triton 3 or newer'
    rows = [] if missing else _stage_rows(
        GPU_BATCH, torch.float16, device, modules.paths_of(device), repeats, show
    )  # fmt: skip
    for passes, limit in (('forward', 3.0), ('forward + backward', 8.0)):
        what = f'fp16 {passes} at stage 1, batch {GPU_BATCH}: ours / device copy'
        over_copy = _chosen(rows, 'triton', passes, 'over_copy')
        yield Bar(what, limit, over_copy[0] if rows else math.nan, missing=missing)
    for passes in ('forward', 'forward + backward'):
        what = f'fp16 {passes}, four stages, batch {GPU_BATCH}: reference / ours'
        ratios = _chosen(rows, 'triton', passes, 'reference_over')
        mean = timing.geometric_mean(ratios) if rows else math.nan
        yield Bar(what, 3.0, mean, at_least=True, missing=missing)


def gpu_networks(device: torch.device, repeats: int, show: Show) -> Iterator[Bar]:
    """Images a second of a ResNet-50 under mixed precision over the plain one, by each path."""
    paths = [path for path in ('eager', 'triton') if path in modules.paths_of(device)]
    for path, (passes, limit) in itertools.product(paths, GPU_SPEED.items()):
        runs = [
            models.ModelRun(name, device, (224, 224), training=passes == 'train', amp=True)
            for name in ('resnet50', 'resnet50_scsa')
        ]
        with backend(path):
            rows = models.measure_models(runs, GPU_BATCH, repeats, warmup=10)
        show(models.table(rows))
        what = f'ResNet-50 images/s over plain, AMP, batch {GPU_BATCH}, {passes}, {path}'
        yield Bar(what, limit, rows[1]['speed_over_first'], at_least=True)


def accuracy(device: torch.device, repeats: int, show: Show) -> Iterator[Bar]:
    """Every path against the reference in float64: output and gradient of the map, four stages."""
    for path in modules.paths_of(device)[1:]:  # the first is the reference
        for dtype, limit in ACCURACY.items():
            errors = [_error((2, *stage), dtype, device, path) for stage in modules.STAGES]
            show(f'{path}, {dtype}: ' + '  '.join(f'{error:.1e}' for error in errors))
            yield Bar(f'accuracy, {path}, {str(dtype)[6:]}', limit, max(errors))


def _error(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, path: str) -> float:
    """The largest difference over the largest value, of the output or of the map's gradient."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    module = SCSA(shape[1]).to(device)
    x = torch.randn(shape, device=device).to(dtype).requires_grad_()
    grad = torch.randn_like(x)
    exact = SCSA(shape[1]).to(device).double()
    exact.load_state_dict(module.state_dict())
    function = torch.compile(module) if path == 'compiled' else module
    with backend('auto' if path == 'compiled' else path):
        out = function(x)
        (gradient,) = torch.autograd.grad(out, x, grad)
    x_double = x.detach().double().requires_grad_()
    expected = scsa_reference(exact, x_double)
    (expected_gradient,) = torch.autograd.grad(expected, x_double, grad.double())
    return max(
        ((found.double() - value).abs().max() / value.abs().max()).item()
        for found, value in ((out, expected), (gradient, expected_gradient))
    )


def _ratio(what: str, limit: float, times: dict[str, list[float]], show: Show) -> Bar:
    """The second over the first, by their medians."""
    found = {name: timing.summary(values) for name, values in times.items()}
    for name, t in found.items():
        show(f'{what}: {name} {t["ms"]:.1f} ms ({t["low"]:.1f}-{t["high"]:.1f})')
    first, second = (t['ms'] for t in found.values())
    return Bar(what, limit, second / first)


def _missing(package: str) -> str:
    return '' if importlib.util.find_spec(package) else f'needs {package}'


GROUPS = {
    'cpu': dict(
        stages=cpu_stages,
        networks=cpu_networks,
        digits=cpu_digits,
        growth=cpu_growth,
        detection=cpu_detection,
        accuracy=accuracy,
    ),
    'cuda': dict(stages=gpu_stages, networks=gpu_networks, accuracy=accuracy),
}

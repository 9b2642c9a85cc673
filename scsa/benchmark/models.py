"""Images a second and memory of whole models, such as with SCSA and without."""

from __future__ import annotations

import itertools
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from ..cli import UserError
from .resnet import ResNet50
from .timing import bytes_kept, peak_bytes, summary


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

    from ..analysis.complexity import build

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
        self.detector = not backbone and (hasattr(model, 'bbox_head') or hasattr(model, 'roi_head'))
        self.model = (model.backbone if backbone else model).to(device)
        self.model.train(training)  # mmpretrain's ResNet returns None
        self.name, self.device, self.size = name, device, size
        self.training, self.amp, self.compiled = training, amp, compiled
        self.function = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-9, momentum=0.9)
        self.scaler = torch.cuda.amp.GradScaler(enabled=amp and training and device.type == 'cuda')

    def facts(self, batch: int) -> dict:
        """What identifies a row of figures."""
        return dict(
            model=self.name,
            batch=batch,
            size=list(self.size),
            training=self.training,
            amp=self.amp,
            compiled=self.compiled,
            device=self.device.type,
        )

    def images(self, batch: int) -> Tensor:
        return torch.randn(batch, 3, *self.size, device=self.device)

    def loss(self, images: Tensor) -> Tensor:
        half = torch.float16 if self.device.type == 'cuda' else torch.bfloat16
        with torch.autocast(self.device.type, half, self.amp):
            outputs = self.function(images, **self._options(len(images)))
        return sum(out.float().square().sum() for out in _tensors(outputs))

    def _options(self, batch: int) -> dict:
        """What the forward pass takes beside the images: mmdet's asks for their sizes."""
        if not self.detector:
            return {}
        from mmdet.structures import DetDataSample

        sizes = dict.fromkeys(('img_shape', 'ori_shape', 'batch_input_shape'), self.size)
        samples = [DetDataSample(metainfo=dict(sizes, scale_factor=(1.0, 1.0)))] * batch
        return dict(data_samples=samples)

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
        row = dict(
            run.facts(batch),
            **figures,
            images_per_second=batch / figures['ms'] * 1e3,
            speed_over_first=first / figures['ms'],
        )
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


def batches_until_full(runs: list[ModelRun], first: int) -> tuple[dict[str, int], list[int]]:
    """The largest batch of each model, and the batches from `first` on, doubled, that fit all."""
    largest = {run.name: largest_batch(run) for run in runs}
    doublings = (first * 2**n for n in itertools.count())
    limit = min(largest.values())
    return largest, [*itertools.takewhile(lambda batch: batch <= limit, doublings)]


def published_protocol(run: ModelRun) -> dict:
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
    speed = 30 * 64 / (time.perf_counter() - start)
    return dict(run.facts(64), protocol='published', images_per_second=speed)


def table(rows: list[dict]) -> str:
    """Rows of models as text."""
    lines = [
        f'{"model":32} {"pass":>18} {"batch":>5} {"images/s":>9} {"ms":>9} {"quartiles":>19} '
        f'{"x first":>7} {"kept MB/image":>13} {"peak MB":>8}'
    ]
    for row in rows:
        passes = pass_name(row)
        kept = f'{row["kept_per_image"] / 1e6:13.1f}' if 'kept_per_image' in row else f'{"-":>13}'
        lines.append(
            f'{Path(row["model"]).stem:32} {passes:>18} {row["batch"]:5} '
            f'{row["images_per_second"]:9.1f} {row["ms"]:9.1f} '
            f'{row["low"]:9.1f}-{row["high"]:9.1f} '
            f'{row["speed_over_first"]:7.3f} {kept} {row["peak"] / 1e6:8.0f}'
        )
    return '\n'.join(lines)


def pass_name(row: dict) -> str:
    """Such as ``train amp compiled``."""
    options = [name for name in ('amp', 'compiled') if row[name]]
    return ' '.join(['train' if row['training'] else 'eval', *options])

"""A training step of an ImageNet config on made-up images: does it run, how fast, how much memory.

The images lie on the device already: what is measured is the network, not the disk.
"""

from __future__ import annotations

import math
import statistics
import time

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

WARMUP = 3


def measure(
    cfg: Config, device: torch.device, batch: int | None = None, size: int = 224, steps: int = 10
) -> dict:
    """Trains on random images as the config says: its optimizer, its AMP, its augmentation.

    Args:
        cfg: Config of a classifier.
        device: Where to train. The CPU trains in float32 whatever the config says.
        batch: Images a step; the config's own by default.
        size: Height and width of the images.
        steps: Steps that are timed, after a few that are not.

    Raises:
        ArithmeticError: The loss is not finite, or no step changed the weights.
    """
    batch = batch or cfg.train_dataloader.batch_size
    precision = _precision(cfg.optim_wrapper, device)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = cfg.get('env_cfg', {}).get('cudnn_benchmark', False)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = _build(cfg).to(device).train()
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
        data = _data(batch, size, cfg.model.head.num_classes, device)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        if device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats()
        times, losses = [], []
        for _ in range(WARMUP + steps):
            start = time.perf_counter()
            losses.append(float(model.train_step(data, optimizer)['loss']))  # waits for the device
            if device.type == 'cuda':
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    if not all(map(math.isfinite, losses)):
        raise ArithmeticError(f'the loss is not finite: {losses}')
    if all(torch.equal(old, new) for old, new in zip(before, model.parameters())):
        raise ArithmeticError(f'{len(losses)} steps left the weights as they were')
    seconds = statistics.median(times[WARMUP:])
    figures = dict(
        precision=precision, batch=batch, size=size, loss=losses[-1],
        ms=seconds * 1e3, images_per_second=batch / seconds,
    )  # fmt: skip
    if device.type == 'cuda':
        figures['peak_bytes'] = torch.cuda.max_memory_allocated()
    return figures


def use_amp(cfg: Config) -> None:
    """Turns mixed precision on, as the training tool's ``--amp`` does."""
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def _precision(wrapper: dict, device: torch.device) -> str:
    if wrapper.get('type') != 'AmpOptimWrapper':
        return 'float32'
    if device.type == 'cpu':  # AmpOptimWrapper refuses to work there
        wrapper.type = 'OptimWrapper'
        wrapper.pop('loss_scale', None)
        return 'float32'
    return f'AMP {wrapper.get("dtype") or "float16"}'


def _build(cfg: Config) -> nn.Module:
    options = dict(cfg.model)
    options.setdefault('data_preprocessor', cfg.data_preprocessor)  # as mmengine's runner does
    model = MODELS.build(options)
    model.init_weights()
    return model


def _data(batch: int, size: int, classes: int, device: torch.device) -> dict:
    from mmpretrain.structures import DataSample

    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
    labels = torch.randint(0, classes, (batch,)).tolist()
    return dict(inputs=images, data_samples=[DataSample().set_gt_label(n) for n in labels])

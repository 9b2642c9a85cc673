"""Load a model of mmpretrain, mmdet or mmseg with its weights, by the inferencer of its package."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import _load_checkpoint
from torch import Tensor, nn

import scsa  # noqa: F401, a config without SCSA does not import it

from ..cli import UserError, existing
from ..engine.checkpoints import read_safely
from ..engine.config import explained

TASKS = {'mmpretrain': 'classification', 'mmdet': 'detection', 'mmseg': 'segmentation'}
MODEL_HELP = 'give --model NAME=CONFIG,CHECKPOINT'


@dataclass
class LoadedModel:
    """A model in eval mode and the inferencer that feeds it.

    Attributes:
        name: What pictures call it.
        task: ``'classification'``, ``'detection'`` or ``'segmentation'``.
        inferencer: That of the package: ``ImageClassificationInferencer``, ``DetInferencer`` or
            ``MMSegInferencer``.
    """

    name: str
    task: str
    inferencer: Any

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.inferencer.model

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes, where the checkpoint or the data set says them."""
        if self.task == 'classification':
            names = self.inferencer.classes
        else:
            names = self.model.dataset_meta.get('classes')
        return None if names is None else list(names)

    def class_name(self, label: int) -> str:
        """The name of a class, or its number where there are no names."""
        names = self.classes
        return names[label] if names and label < len(names) else str(label)

    def prepare(self, image: np.ndarray) -> tuple[Tensor, list]:
        """Bring an image to what the network takes, by the test pipeline of the config.

        Args:
            image: (height, width, 3) uint8, RGB.

        Returns:
            (1, 3, H, W), normalised, on the device of the model, and the data samples.
        """
        batch = next(iter(self.inferencer.preprocess([image[..., ::-1]], batch_size=1)))
        if self.task == 'detection':  # mmdet's gives the images beside the batch
            batch = batch[1]
        data = self.model.data_preprocessor(batch, False)
        return data['inputs'], data['data_samples']

    def picture(self, inputs: Tensor) -> np.ndarray:
        """What :meth:`prepare` gave, (1, 3, H, W), as an image (H, W, 3) uint8, RGB."""
        preprocessor = self.model.data_preprocessor
        x = inputs[0].detach()
        if getattr(preprocessor, '_enable_normalize', False):
            x = x * preprocessor.std + preprocessor.mean
        x = x.clamp(0, 255).round().byte().permute(1, 2, 0).cpu().numpy()
        turned = ('to_rgb', '_channel_conversion', 'channel_conversion')
        rgb = any(getattr(preprocessor, name, False) for name in turned)
        return np.ascontiguousarray(x if rgb else x[..., ::-1])


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """``--model NAME=CONFIG,CHECKPOINT``, once for each model, and ``--device``."""
    parser.add_argument(
        '--model',
        action='append',
        required=True,
        dest='models',
        metavar='NAME=CONFIG,CHECKPOINT',
        help='what pictures call it, its config, its weights; repeat it for several models',
    )
    parser.add_argument('--device', help="cpu, cuda:0 … [the machine's accelerator, else cpu]")


def load_models(specs: list[str], device: str | None = None) -> list[LoadedModel]:
    """Load what :func:`add_model_arguments` read.

    Raises:
        UserError: A spec is no ``NAME=CONFIG,CHECKPOINT``, two have one name, or see :func:`load`.
    """
    parsed = [parse(spec) for spec in specs]
    names = [name for name, _, _ in parsed]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f'two models are called {name!r}; give each --model another name')
    return [load(name, config, checkpoint, device) for name, config, checkpoint in parsed]


def parse(spec: str) -> tuple[str, str, str]:
    """``NAME=CONFIG,CHECKPOINT`` to its three parts.

    Raises:
        UserError: A part is missing.
    """
    name, _, files = spec.partition('=')
    config, _, checkpoint = files.partition(',')
    if not (name and config):
        raise UserError(f'--model {spec}: {MODEL_HELP}')
    if not checkpoint:
        raise UserError(f'--model {spec} names no checkpoint; {MODEL_HELP}')
    return name, config, checkpoint


def load(name: str, config: str, checkpoint: str, device: str | None = None) -> LoadedModel:
    """Build the model of a config, load its weights, and find the inferencer of its package.

    Args:
        name: What pictures call it.
        config: Config file of mmpretrain, mmdet or mmseg.
        checkpoint: File with its weights.
        device: ``'cpu'``, ``'cuda:0'`` …; None for the machine's accelerator, else the CPU.

    Raises:
        UserError: A file is missing or cannot be read, the package is not installed or of none of
            the three tasks, or the weights are not those of the config.
    """
    path = existing(config, 'config', 'configs/ holds those of this project')
    weights = existing(checkpoint, 'checkpoint', 'train one with tools/train.py')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is a program: it can fail in any way
        raise UserError(f'config {path} cannot be read: {type(error).__name__}: {error}') from error
    scope = cfg.get('default_scope')
    if scope not in TASKS:
        raise UserError(
            f'config {path} has default_scope={scope!r}; '
            f'it must be one of {", ".join(TASKS)}, whose inferencers are used'
        )
    read_safely()
    try:
        state = _load_checkpoint(str(weights), map_location='cpu')
    except UserError:
        raise
    except Exception as error:  # pickle, zip and torch each raise their own
        raise UserError(f'checkpoint {weights} cannot be read: {error}') from error
    cfg.model.pop('pretrained', None)
    device = device or get_device()
    # The packages' own look-ups go to the scope that was first in the process.
    with DefaultScope.overwrite_default_scope(scope), explained(TypeError, ValueError):
        inferencer = _inferencer(TASKS[scope], cfg, str(weights), device)
    inferencer.model = revert_sync_batchnorm(inferencer.model).eval()
    _check_fit(inferencer.model, state.get('state_dict', state), weights, path)
    return LoadedModel(name, TASKS[scope], inferencer)


def _inferencer(task: str, cfg: Config, checkpoint: str, device: str) -> Any:
    try:
        if task == 'classification':
            from mmpretrain import ImageClassificationInferencer
            from mmpretrain.utils import progress

            progress.disable_progress_bar = True  # one for each call, and we call for each image
            return ImageClassificationInferencer(cfg, pretrained=checkpoint, device=device)
        if task == 'detection':
            from mmdet.apis import DetInferencer

            return DetInferencer(cfg, checkpoint, device=device, show_progress=False)
        from mmseg.apis import MMSegInferencer

        inferencer = MMSegInferencer(cfg, checkpoint, device=device)
        inferencer.show_progress = False
        meta = inferencer.model.dataset_meta
        if len(meta['classes']) != len(meta.get('palette') or ()):
            # The colours that mmseg's data sets give to classes without any; drawing needs them.
            rng = np.random.RandomState(42)
            meta['palette'] = rng.randint(0, 255, (len(meta['classes']), 3)).tolist()
        return inferencer
    except ImportError as error:
        raise UserError(
            f'{task} does not run here: {error}; docs/install.md says what to install'
        ) from error


def _check_fit(model: nn.Module, state: dict, checkpoint: Any, config: Any) -> None:
    """Refuse weights of another model: mmengine logs what is missing and leaves it random."""
    own = model.state_dict()
    given = {key.replace('module.', '', 1) if key.startswith('module.') else key for key in state}
    missing = [key for key in own if key not in given and 'num_batches_tracked' not in key]
    missing = [key for key in missing if not key.startswith('data_preprocessor.')]
    if missing:
        raise UserError(
            f'checkpoint {checkpoint} is not of config {config}: it lacks {len(missing)} of '
            f'{len(own)} entries, first {", ".join(missing[:3])}; give the one that belongs to it'
        )

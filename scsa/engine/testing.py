"""What testing does to a config beyond reading it: test-time augmentation, drawing."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..cli import UserError


def use_tta(cfg: Config) -> None:
    """Wrap the model and exchange the pipeline, as the config's ``tta_*`` say.

    A classifier without those averages the scores of an image and of the mirror images that its
    training shows it.

    Raises:
        UserError: if there are no ``tta_model`` and ``tta_pipeline``, and no flips in training.
    """
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if cfg.get('default_scope') == 'mmpretrain' and 'tta_pipeline' not in cfg:
        cfg.tta_model = dict(type='mmpretrain.AverageClsScoreTTA')
        *load, pack = dataset.pipeline
        flips = [dict(type='RandomFlip', prob=0.0)]
        flips += [dict(type='RandomFlip', prob=1.0, direction=d) for d in _training_flips(cfg)]
        cfg.tta_pipeline = [*load, dict(type='TestTimeAug', transforms=[flips, [pack]])]
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing:
        raise UserError(f'--tta needs {" and ".join(missing)} in the config, which has none')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def _training_flips(cfg: Config) -> list[str]:
    """The directions in which the training pipeline flips an image.

    Raises:
        UserError: if it does not.
    """
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    found = []
    for step in dataset.get('pipeline', []):
        if step['type'].rsplit('.', 1)[-1] == 'RandomFlip' and step.get('prob'):
            directions = step.get('direction', 'horizontal')
            found += [directions] if isinstance(directions, str) else directions
    if not found:
        raise UserError(
            '--tta averages the flips of the training, and the training pipeline of this config '
            'has none; leave out --tta, or set tta_model and tta_pipeline'
        )
    return list(dict.fromkeys(found))


def draw_predictions(cfg: Config, folder: str) -> None:
    """Have the visualization hook of the task draw every prediction into a folder.

    Raises:
        UserError: if the config has no such hook.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise UserError('--show-dir needs default_hooks.visualization in the config')
    Path(folder).mkdir(parents=True, exist_ok=True)
    kind = hook.type.rsplit('.', 1)[-1]
    if kind == 'VisualizationHook':  # mmpretrain
        hook.update(enable=True, out_dir=folder, interval=1)
        if 'tta_model' in cfg and cfg.model.type == cfg.tta_model.type:
            hook.type = 'FirstViewVisualizationHook'
            import_module('scsa.engine.drawing')  # which registers it, and needs mmpretrain
    elif kind == 'DetVisualizationHook':
        # mmdet joins it to the work dir and a time stamp unless it is absolute
        hook.update(draw=True, test_out_dir=str(Path(folder).resolve()))
    else:  # mmseg's SegVisualizationHook draws where the visualizer saves
        hook.update(draw=True, interval=1)
        cfg.visualizer.save_dir = folder

"""What testing does to a config beyond reading it: test-time augmentation, drawing."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..cli import UserError


def use_tta(cfg: Config) -> None:
    """Wrap the model and exchange the pipeline, as the config's ``tta_*`` say.

    A classifier without those averages the scores of an image and its mirror image.

    Raises:
        UserError: if a config of another task has no ``tta_model`` and ``tta_pipeline``.
    """
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if cfg.get('default_scope') == 'mmpretrain' and 'tta_pipeline' not in cfg:
        cfg.tta_model = dict(type='mmpretrain.AverageClsScoreTTA')
        *load, pack = dataset.pipeline
        flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
        cfg.tta_pipeline = [*load, dict(type='TestTimeAug', transforms=[flips, [pack]])]
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing:
        raise UserError(f'--tta needs {" and ".join(missing)} in the config, which has none')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


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
    elif kind == 'DetVisualizationHook':
        # mmdet joins it to the work dir and a time stamp unless it is absolute
        hook.update(draw=True, test_out_dir=str(Path(folder).resolve()))
    else:  # mmseg's SegVisualizationHook draws where the visualizer saves
        hook.update(draw=True, interval=1)
        cfg.visualizer.save_dir = folder

"""The quick starts train under mmpretrain's, mmdet's and mmseg's own tools/train.py."""

from importlib import import_module
from pathlib import Path

import pytest
from tools_helpers import ROOT, SEGMENTATION, run_python, tiny, tiny_scenes

pytestmark = pytest.mark.long
HEADS = {'digits': 'mmpretrain', 'rcnn': 'mmdet', 'retinanet': 'mmdet', 'fpn': 'mmseg'}
HEADS['upernet'] = 'mmseg'
CONFIGS = sorted((ROOT / 'configs/quickstart').glob('*.py'))
AT_ONCE = 'resnet18_digits_scsa'  # the others need minutes all together


@pytest.mark.parametrize(
    'config',
    [
        pytest.param(path, id=path.stem, marks=() if path.stem == AT_ONCE else pytest.mark.slow)
        for path in CONFIGS
    ],
)
def test_trains(config, digits, scenes, tmp_path):
    (package,) = (package for word, package in HEADS.items() if word in config.stem)
    if package == 'mmpretrain':
        settings = tiny(digits, 'train_cfg.max_epochs=1')
    else:
        pytest.importorskip('mmcv.ops', reason=f'{package} needs mmcv with its operators')
        settings = tiny_scenes(scenes, SEGMENTATION if package == 'mmseg' else config)
    tool = Path(import_module(package).__file__).parent / '.mim/tools/train.py'
    if not tool.exists():
        pytest.skip(f'{package} was installed without its tools')
    log = run_python(tool, config, '--work-dir', tmp_path, *settings)
    assert 'Epoch(val)' in log or 'Iter(val)' in log
    assert [*tmp_path.glob('epoch_1.pth'), *tmp_path.glob('iter_2.pth')]

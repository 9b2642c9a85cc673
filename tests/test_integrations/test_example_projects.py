"""What is in examples/ runs: the timm loop learns, the two projects train and build."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
from tools_helpers import ROOT, run_tool

EXAMPLES = ROOT / 'examples'


@pytest.mark.long
def test_the_timm_loop_learns():
    pytest.importorskip('timm', reason='needs timm')
    assert runpy.run_path(str(EXAMPLES / 'timm_digits.py'))['main'](4) > 0.9


@pytest.mark.long
def test_a_folder_of_images_becomes_a_classifier_that_names_them(tmp_path):
    pytest.importorskip('mmpretrain', reason='the tools drive OpenMMLab')
    from scsa.datasets.digits import write_digits

    write_digits(tmp_path / 'digits', 28)
    images = tmp_path / 'my_images'
    for split, count in (('train', 24), ('val', 4)):
        for digit in '017':
            (images / split / digit).mkdir(parents=True)
            for image in sorted((tmp_path / 'digits' / split / digit).iterdir())[:count]:
                shutil.copy(image, images / split / digit)
    config, out = EXAMPLES / 'image_folder/resnet18_scsa.py', tmp_path / 'out'
    options = ['model.backbone.stem_channels=8', 'model.backbone.base_channels=8']
    options += ['model.head.in_channels=64', f'data_root={images}']
    few = [*options, 'train_cfg.max_epochs=1', 'param_scheduler.total_steps=1']
    run_tool('tools/train.py', config, '--work-dir', out, '--cfg-options', *few)
    assert (out / 'epoch_1.pth').exists()
    dumped = next(out.glob('*.py'))  # the config as it was trained
    run_tool(
        'tools/infer.py', dumped, out / 'epoch_1.pth', images / 'val/7', '--out-dir', out / 'infer'
    )
    (predictions,) = (out / 'infer').glob('*.json')
    text = json.dumps(json.loads(predictions.read_text()))
    assert all(image.name in text for image in (images / 'val/7').iterdir())


def test_the_project_on_mmdet_is_a_config_and_a_readme_and_builds():
    pytest.importorskip('mmcv.ops', reason='mmdet needs mmcv with its compiled operators')
    pytest.importorskip('mmdet', reason='needs mmdet')
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    import scsa

    folder = EXAMPLES / 'mmdet_project'
    assert sorted(p.name for p in Path(folder).iterdir() if p.suffix != '.pyc') == [
        'README.md',
        'retinanet_r50_scsa.py',
    ]
    register_all_modules(init_default_scope=True)
    cfg = Config.fromfile(folder / 'retinanet_r50_scsa.py')
    model = MODELS.build(cfg.model)
    assert sum(isinstance(m, scsa.SCSA) for m in model.modules()) == 16
    assert model.bbox_head.num_classes == len(cfg.classes)
    assert all(p.requires_grad for p in model.backbone.parameters())

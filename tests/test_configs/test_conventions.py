"""What holds for every config of detection and segmentation alike."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from config_helpers import CONFIGS, ROOT, config_names, flat, read
from mmengine.device import get_device
from mmengine.fileio import load
from mmengine.runner import Runner

from scsa.analysis.config_table import documented

pytest.importorskip('mmdet', reason='the bases are those of mmdet and mmseg')
pytest.importorskip('mmseg')

NAMES = config_names('detection/*.py', 'segmentation/*.py', 'quickstart/*scenes*.py')
STARTED = config_names('detection/*.py', 'segmentation/*.py')
BASES = config_names('_base_/detection/*.py', '_base_/segmentation/*.py')


@pytest.mark.parametrize('name', NAMES + BASES)
def test_is_short_and_inherits_nothing_of_ours_by_package(name):
    """`scsa::` is unknown to mmengine until scsa is imported; `mim train mmdet` does not do it."""
    text = (CONFIGS / name).read_text()
    assert len(text.splitlines()) <= 60
    assert 'scsa::' not in text


@pytest.mark.parametrize('name', NAMES)
def test_imports_scsa(name):
    assert read(name).custom_imports == dict(imports=['scsa'], allow_failed_imports=False)


@pytest.mark.parametrize('name', NAMES)
def test_needs_no_download(name):
    model = flat(read(name).model.to_dict())
    assert [value for value in model.values() if '://' in str(value)] == []


@pytest.mark.parametrize('name', STARTED)
def test_starts_from_the_variable_at_the_top(name):
    """Written in the file itself or, for a longer schedule, in the one it inherits."""
    cfg = read(name)
    start = cfg.model.backbone.init_cfg
    assert (start.type, start.prefix) == ('Pretrained', 'backbone.')
    assert start.checkpoint == cfg.pretrained
    # ImageNet configs are called after their backbone, and so are their checkpoints.
    recipe = cfg.pretrained.replace('checkpoints/', '').replace('.pth', '.py')
    assert (CONFIGS / 'classification' / recipe).exists()
    assert ('scsa' in cfg.model.backbone.type.lower()) == ('scsa' in recipe)


@pytest.mark.parametrize('name', NAMES)
def test_frozen_only_where_the_start_is_ours(name):
    """A new SCSA behind frozen norms could not be made up for: docs/detection.md."""
    backbone = read(name).model.backbone
    if backbone.get('frozen_stages', -1) >= 1 or backbone.get('norm_eval', False):
        assert backbone.get('init_cfg', {}).get('prefix') == 'backbone.'


def test_tables_of_the_docs_list_every_config():
    tables = [documented(ROOT / f'docs/{page}.md') for page in ('detection', 'segmentation')]
    assert sorted([*tables[0], *tables[1]]) == NAMES


@pytest.mark.parametrize(
    ('page', 'text'),
    [
        ('README.md', 'GPUS --auto-scale-lr'),
        ('README.md', 'about 20 GB'),  # 100 x (weights and momentum: 2 x 4 bytes x 25.6 M)
        ('README.md', 'default_hooks.checkpoint.max_keep_ckpts=2'),
        ('README.md', 'exp/best_*.pth'),
        ('README.md', "ResNet-50's published config is float32"),
        ('docs/segmentation.md', '`--auto-scale-lr` is refused'),
        ('docs/segmentation.md', '`optim_wrapper.accumulative_counts=4`'),
    ],
)
def test_what_a_run_of_a_recipe_needs_is_said(page, text):
    assert text in (ROOT / page).read_text()


def test_sync_batch_norm_needs_no_option_in_one_process():
    """As docs/segmentation.md says."""
    runner = SimpleNamespace(distributed=False, logger=logging.getLogger('a run'))
    model = Runner.wrap_model(runner, None, torch.nn.Sequential(torch.nn.SyncBatchNorm(4)))
    assert model(torch.ones(2, 4, 3, 3, device=get_device())).abs().max() < 1e-3


def test_model_index_lists_every_config():
    files = load(ROOT / 'model-index.yml')['Import']
    models = [model for file in files for model in load(ROOT / file)['Models']]
    assert {f'configs/{name}' for name in STARTED} <= {model['Config'] for model in models}
    assert all(model['Config'].endswith(f'/{model["Name"]}.py') for model in models)


@pytest.mark.parametrize('name', [name for name in STARTED if '-scsa' in name])
def test_has_a_plain_baseline(name):
    """The same recipe; test_detection.py and test_segmentation.py compare them."""
    assert name.replace('-scsa', '') in STARTED


@pytest.mark.parametrize(
    'path', sorted((CONFIGS / 'quickstart').glob('*.py')), ids=lambda p: p.stem
)
def test_quick_starts_suit_the_tools_of_the_packages(path):
    """Mmpretrain's tools/train.py sets persistent workers where a config does not say."""
    pytest.importorskip('mmdet')
    cfg = read(f'quickstart/{path.name}')
    for part in ('train', 'val', 'test'):
        loader = cfg[f'{part}_dataloader']
        assert loader.num_workers > 0 or loader.get('persistent_workers') is False

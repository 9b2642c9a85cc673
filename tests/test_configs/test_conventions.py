"""What holds for every config of detection and segmentation alike."""

from __future__ import annotations

import pytest
from config_helpers import CONFIGS, ROOT, config_names, flat, read

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
    'path', sorted((CONFIGS / 'quickstart').glob('*.py')), ids=lambda p: p.stem
)
def test_quick_starts_suit_the_tools_of_the_packages(path):
    """Mmpretrain's tools/train.py sets persistent workers where a config does not say."""
    pytest.importorskip('mmdet')
    cfg = read(f'quickstart/{path.name}')
    for part in ('train', 'val', 'test'):
        loader = cfg[f'{part}_dataloader']
        assert loader.num_workers > 0 or loader.get('persistent_workers') is False

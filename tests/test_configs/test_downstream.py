"""A project that has never heard of this repository: a folder with a config, mmdet's own tools."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tools_helpers import environment

pytest.importorskip('mmcv.ops', reason='mmdet needs mmcv with its compiled operators')
mmdet = pytest.importorskip('mmdet')

CONFIG = """
custom_imports = dict(imports=['scsa'], allow_failed_imports=False)
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
model = dict(backbone=dict({backbone}, init_cfg=None))
"""
PLUGIN = "plugins=[dict(cfg=dict(type='SCSA'), stages=(True,) * 4, position='after_conv2')]"
ONE_SMALL_STEP = [
    'train_cfg.type=IterBasedTrainLoop',
    'train_cfg.max_iters=1',
    'train_cfg._delete_=True',
    'default_hooks.checkpoint.by_epoch=False',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'train_dataloader.dataset.pipeline.2.scale=(96,96)',
]


@pytest.mark.parametrize(
    'backbone',
    [
        pytest.param("type='ResNetSCSA'", id='backbone'),
        pytest.param(PLUGIN, id='plugin', marks=pytest.mark.slow),
    ],
)
def test_trains_one_step(backbone, data_root, tmp_path):
    (tmp_path / 'config.py').write_text(CONFIG.format(backbone=backbone))
    (tmp_path / 'data').symlink_to(data_root / 'data')
    train = Path(mmdet.__file__).parent / '.mim/tools/train.py'
    done = subprocess.run(
        [sys.executable, str(train), 'config.py', '--cfg-options', *ONE_SMALL_STEP],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    saved = torch.load(
        tmp_path / 'work_dirs/config/iter_1.pth', map_location='cpu', weights_only=False
    )
    attention = [key for key in saved['state_dict'] if '.attn.local_dwc.weight' in key]
    assert len(attention) == 3 + 4 + 6 + 3

"""Why a new SCSA must not stand before frozen norms, as docs/detection.md has it."""

from __future__ import annotations

import pytest
import torch
from config_helpers import CONFIGS
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope
from tools_helpers import run_tool
from torch.utils.data import DataLoader

pytest.importorskip('mmpretrain')
from mmengine.dataset import default_collate

from scsa import SCSA
from scsa.backbones import ResNetSCSA


def test_new_gates_scale_the_map_to_a_seventh():
    backbone = ResNetSCSA(50)
    backbone.init_weights()
    scales = []
    for module in backbone.modules():
        if isinstance(module, SCSA):
            module.register_forward_hook(
                lambda _, x, y: scales.append((y.abs().mean() / x[0].abs().mean()).item())
            )
    with torch.no_grad():
        backbone.train()(torch.randn(2, 3, 224, 224))
    assert len(scales) == 16
    assert min(scales) > 0.13 and max(scales) < 0.16


@pytest.mark.slow
def test_stored_statistics_of_a_plain_network_do_not_fit(tmp_path):
    """A plain classifier with a new SCSA: lost, and well again when its norms alone follow."""
    run_tool('tools/dataset_converters/digits.py', '--out', tmp_path / 'digits')
    options = [f'{s}_dataloader.dataset.data_root={tmp_path}/digits' for s in ('train', 'val')]
    plain = 'configs/quickstart/resnet18_digits.py'
    run_tool('tools/train.py', plain, '--work-dir', tmp_path, '--cfg-options', *options)
    (last,) = tmp_path.glob('last_checkpoint')
    weights = torch.load(last.read_text(), map_location='cpu', weights_only=False)['state_dict']

    cfg = Config.fromfile(CONFIGS / 'quickstart/resnet18_digits_scsa.py')
    cfg.merge_from_dict(dict(option.split('=', 1) for option in options))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
        train, val = (
            DataLoader(DATASETS.build(loader.dataset), 120, True, collate_fn=default_collate)
            for loader in (cfg.train_dataloader, cfg.val_dataloader)
        )
    model.init_weights()
    model.load_state_dict(weights, strict=False)

    def top1():
        model.eval()
        with torch.no_grad():
            right = [r.pred_label == r.gt_label for batch in val for r in model.val_step(batch)]
        return torch.cat(right).float().mean()

    assert top1() < 0.3
    model.train()
    with torch.no_grad():
        for _ in range(5):
            for batch in train:
                model.extract_feat(model.data_preprocessor(batch, True)['inputs'])
    assert top1() > 0.9

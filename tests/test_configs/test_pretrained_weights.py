"""The checkpoints of our ImageNet configs start every config of detection and segmentation."""

from __future__ import annotations

import pytest
import torch
from config_helpers import config_names, read
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.registry import MODELS, DefaultScope

pytest.importorskip('mmcv.ops', reason='mmdet and mmseg need mmcv with its compiled operators')
pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

NAMES = config_names('detection/*.py', 'segmentation/*.py')
MMDET_SWIN = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
MMSEG_SWIN = 'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """The checkpoint of a classifier, by the name of its config."""
    folder = tmp_path_factory.mktemp('checkpoints')

    def save(stem: str) -> str:
        path = folder / f'{stem}.pth'
        if not path.exists():
            with DefaultScope.overwrite_default_scope('mmpretrain'):
                model = MODELS.build(read(f'classification/{stem}.py').model)
            for value in model.state_dict().values():
                if value.is_floating_point():
                    value.uniform_(0.5, 1.5)  # unlike any initialisation
            torch.save(dict(state_dict=model.state_dict(), meta={}), path)
        return str(path)

    return save


def started(scope: str, backbone: ConfigDict, path: str) -> torch.nn.Module:
    """A backbone that has read a checkpoint as its config says, in evaluation."""
    cfg = ConfigDict(backbone, init_cfg=dict(backbone.init_cfg, checkpoint=path))
    with DefaultScope.overwrite_default_scope(scope):
        built = MODELS.build(cfg)
    built.init_weights()
    built.eval()
    return built


def astray(backbone: torch.nn.Module, path: str) -> list[str]:
    """Tensors of the checkpoint that the backbone has not, and its own that the file has not.

    A detector reads several maps of Swin, so it has norms that a classifier lacks; and a plain
    checkpoint has no SCSA.
    """
    prefix, plain = 'backbone.', 'scsa' not in path
    saved = torch.load(path, map_location='cpu')['state_dict']
    saved = {k[len(prefix) :]: v for k, v in saved.items() if k.startswith(prefix)}
    free = ('norm0.', 'norm1.', 'norm2.') if 'swin' in path else ()
    if hasattr(backbone, 'attention_names') and plain:
        backbone.adapt_plain_keys(saved, '')
        free += tuple(f'{name}.' for name in backbone.attention_names())
    own = backbone.state_dict()
    lost = [k for k, value in saved.items() if k not in own or not torch.equal(own[k], value)]
    return lost + [k for k in own if k not in saved and not k.startswith(free)]


@pytest.fixture(scope='module')
def seen():
    """What configs with the same backbone have found; to build it once is enough."""
    return {}


@pytest.mark.parametrize('name', NAMES)
def test_every_tensor_arrives(name, checkpoint, seen):
    """From the checkpoint that the config names and, with SCSA, from the plain one too."""
    cfg = read(name)
    assert cfg.model.get('pretrained') is None  # mmseg would take it for the backbone's start
    stem = cfg.pretrained.replace('checkpoints/', '').replace('.pth', '')
    for start in {stem, stem.replace('_scsa', '')}:
        path = checkpoint(start)
        key = f'{cfg.default_scope} {cfg.model.backbone} {start}'
        if key not in seen:
            seen[key] = astray(started(cfg.default_scope, cfg.model.backbone, path), path)
        assert seen[key] == []


@pytest.mark.parametrize(
    ('theirs', 'options', 'ours'),
    [
        (MMDET_SWIN, dict(convert_weights=False), 'detection/mask-rcnn_swin-t_fpn_1x_coco.py'),
        (MMSEG_SWIN, dict(), 'segmentation/upernet_swin-t_8xb2-160k_ade20k-512x512.py'),
    ],
    ids=['mmdet', 'mmseg'],
)
def test_the_packages_own_swin_reads_it_unconverted(theirs, options, ours, checkpoint):
    """As docs/detection.md says; and it is the network of our baseline."""
    path, cfg = checkpoint('swin-tiny_16xb64_in1k'), read(ours)
    backbone = get_config(theirs).model.backbone
    backbone.update(options, init_cfg=dict(type='Pretrained'))
    own = started(cfg.default_scope, backbone, path)
    assert astray(own, path) == []
    baseline = started(cfg.default_scope, cfg.model.backbone, path)
    image = torch.randn(1, 3, 72, 104)  # maps that no window of seven divides
    with torch.no_grad():
        expected, found = own(image), baseline(image)
    assert len(expected) == len(found) == 4
    for level, same in zip(expected, found):
        torch.testing.assert_close(same, level)

"""A warning where a frozen stage holds weights that no checkpoint has filled."""

import logging
from types import SimpleNamespace

import pytest
import torch

mmpretrain = pytest.importorskip('mmpretrain')
from mmengine.model import BaseModel, MMDistributedDataParallel  # noqa: E402
from mmpretrain.models import ResNet  # noqa: E402

from scsa.backbones import ResNetSCSA  # noqa: E402
from scsa.engine.hooks import FrozenWeightsHook, unwrapped  # noqa: E402


class Detector(BaseModel):
    """As much of a detector as the hook looks at."""

    def __init__(self, **options):
        super().__init__()
        self.backbone = ResNetSCSA(18, frozen_stages=1, **options)

    def forward(self, inputs):
        return self.backbone(inputs)


def warnings_of(model, caplog, load_from=None):
    logger = logging.getLogger('a run')
    runner = SimpleNamespace(model=model, logger=logger)
    hook = FrozenWeightsHook()
    hook.before_run(runner)
    model.init_weights()
    if load_from:
        model.load_state_dict(load_from, strict=False)
    with caplog.at_level(logging.WARNING, logger='a run'):
        hook.before_train(runner)
    return [record.getMessage() for record in caplog.records if record.name == 'a run']


@pytest.fixture
def checkpoints(tmp_path):
    found = {}
    for name, backbone in (('plain', ResNet(18)), ('scsa', ResNetSCSA(18))):
        found[name] = dict(type='Pretrained', checkpoint=str(tmp_path / f'{name}.pth'))
        torch.save(backbone.state_dict(), tmp_path / f'{name}.pth')
    return found


def test_without_a_checkpoint(caplog):
    (line,) = warnings_of(Detector(), caplog)
    assert 'backbone.conv1.weight' in line and 'frozen_stages=-1' in line


def test_with_a_plain_checkpoint_scsa_is_random(caplog, checkpoints):
    (line,) = warnings_of(Detector(init_cfg=checkpoints['plain']), caplog)
    assert 'backbone.layer1.0.attn.' in line and 'conv1' not in line


def test_with_all_weights_nothing_is_said(caplog, checkpoints):
    assert warnings_of(Detector(init_cfg=checkpoints['scsa']), caplog) == []


def test_a_checkpoint_of_the_whole_model_counts(caplog):
    assert warnings_of(Detector(), caplog, load_from=Detector().state_dict()) == []


def test_nothing_frozen_nothing_said(caplog):
    model = Detector()
    model.backbone = ResNetSCSA(18)
    assert warnings_of(model, caplog) == []


def test_a_model_that_is_distributed_is_looked_into():
    model = Detector()
    wrapper = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    torch.nn.Module.__init__(wrapper)
    wrapper.module = model
    assert unwrapped(wrapper) is model and unwrapped(model) is model

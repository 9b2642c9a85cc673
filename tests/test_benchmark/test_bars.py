"""The bars: what is measured for each, and what is said of it. Sizes are tiny here."""

import math

import pytest
import torch

from scsa.benchmark import bars, modules
from scsa.benchmark.bars import Bar

pytestmark = pytest.mark.alone

CPU = torch.device('cpu')


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(modules, 'STAGES', ((8, 14, 14), (16, 7, 7)))
    monkeypatch.setattr(bars, 'MANY_SMALL', (16, 64, 4, 4))
    monkeypatch.setattr(bars, 'ONE_LARGE', (1, 64, 16, 16))
    monkeypatch.setattr(bars, 'DETECTION', (64, 96))
    monkeypatch.setattr(bars, 'EPOCHS', 1)
    # The compiler's own tests are elsewhere; here it would take most of the time.
    monkeypatch.setattr(torch, 'compile', lambda module, **_: module)


def measure(*groups, device=CPU):
    shown = []
    return [*bars.measure(device, groups, 2, shown.append)], shown


def test_verdicts_and_table():
    found = [
        Bar('time', 2.0, 1.5),
        Bar('time', 2.0, 2.5),
        Bar('speed', 2.0, 1.5, at_least=True),
        Bar('speed', 2.0, 2.5, at_least=True),
        Bar('speed', 2.0, missing='needs a GPU'),
    ]
    verdicts = ['met', 'MISSED', 'MISSED', 'met', 'not measured: needs a GPU']
    assert [bar.verdict for bar in found] == verdicts
    assert Bar('time', 2.0, math.nan).verdict == 'MISSED'
    lines = bars.table(found).splitlines()
    assert lines[2] == '| time | ≤ 2 | 1.5 | met |'
    assert lines[6] == '| speed | ≤ 2 |  | not measured: needs a GPU |'
    assert found[4].row()['figure'] is None  # JSON knows no nan


def test_stages():
    found, shown = measure('stages')
    assert [(bar.limit, bar.at_least) for bar in found] == [
        (2.0, True), (1.8, True), (2.8, True), (1.07, False), (1.10, False),
    ]  # fmt: skip
    assert all(bar.figure > 0 for bar in found) and shown[0] == modules.HEADER
    assert len(shown) == 1 + 2 * 2 * 4  # stages, passes, three paths and the copy


def test_growth_detection_and_accuracy():
    found, _ = measure('growth', 'detection', 'accuracy')
    assert [bar.limit for bar in found] == [1.5, 1.5, 1.12, 1e-5, 2e-3, 1e-5, 2e-3]
    assert all(bar.figure > 0 for bar in found)
    assert all(bar.verdict == 'met' for bar in found[3:])


def test_wrong_results_miss_the_bar_of_accuracy(monkeypatch):
    monkeypatch.setattr(
        bars, 'scsa_reference', lambda module, x: 1.001 * module.channel_attention(x)
    )
    found, _ = measure('accuracy')
    assert {bar.verdict for bar in found} == {'MISSED'}


def test_what_configs_build_needs_mmpretrain(monkeypatch):
    monkeypatch.setattr(bars.importlib.util, 'find_spec', lambda package: None)
    found, _ = measure('networks', 'digits')
    assert [bar.limit for bar in found] == [8.0, 13.0, 2.0]
    assert {bar.verdict for bar in found} == {'not measured: needs mmpretrain'}


def test_networks():
    pytest.importorskip('mmpretrain')
    found, shown = measure('networks')
    assert [bar.verdict for bar in found] == ['met', 'met']  # bytes are the same on any machine
    # Counted as the limits were: that gave these figures for the plain backbones.
    assert 'plain 82.0 MiB an image' in shown[0] and 'plain 74.6 MiB an image' in shown[1]


def test_an_epoch_of_the_digits_trains(monkeypatch, tmp_path):
    pytest.importorskip('mmpretrain')
    from mmengine.config import Config

    from scsa.datasets.digits import write_digits

    write_digits(tmp_path / 'data' / 'digits', 56)
    monkeypatch.chdir(tmp_path)
    load = Config.fromfile

    def few(path):
        cfg = load(path)
        cfg.train_dataloader.dataset.indices = 64  # one step
        return cfg

    monkeypatch.setattr(Config, 'fromfile', few)
    found, shown = measure('digits')
    assert found[0].limit == 2.0 and found[0].figure > 0 and len(shown) == 2

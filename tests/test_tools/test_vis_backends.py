"""The lines of docs/visualization.md that log to TensorBoard and to Weights & Biases."""

import re

import pytest
from tools_helpers import CONFIG, ROOT, run_tool, tiny

TEXT = (ROOT / 'docs/visualization.md').read_text('utf-8')
LINES = dict(re.findall(r"^(?=visualizer.*'(\w+)VisBackend'\))(.*)$", TEXT, re.MULTILINE))


def test_both_are_documented():
    assert list(LINES) == ['Tensorboard', 'Wandb']


@pytest.mark.long
@pytest.mark.parametrize(
    ('name', 'module', 'written'),
    [
        ('Tensorboard', 'tensorboard', 'events.out.tfevents.*'),
        ('Wandb', 'wandb', 'run-*.wandb'),
    ],
)
def test_trains_with_the_documented_line(name, module, written, digits, tmp_path, monkeypatch):
    pytest.importorskip(module, reason=f'mmengine logs to it where it is installed: {module}')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    config = tmp_path / 'child.py'
    config.write_text(f"_base_ = '{ROOT / CONFIG}'\n{LINES[name]}\n")
    out = tmp_path / 'out'
    run_tool('tools/train.py', config, '--work-dir', out, *tiny(digits, 'train_cfg.max_epochs=1'))
    (scalars,) = out.glob('*/vis_data/scalars.json')  # curves.py still reads it
    assert 'loss' in scalars.read_text()
    assert sum(path.stat().st_size for path in out.rglob(written)) > 500

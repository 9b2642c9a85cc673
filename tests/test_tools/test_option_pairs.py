"""Every pair of options of tools/train.py and tools/test.py: both do their work, or one line.

By default a run ends where its runner would be built, and the config for it tells what the options
have done. With `--slow` the pairs run to their end, for all three tasks.
"""

from __future__ import annotations

import json
import os
import pickle
import runpy
import sys
from argparse import SUPPRESS, ArgumentParser
from itertools import combinations
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from tools_helpers import CONFIG, ROOT, SEGMENTATION, run_python, run_tool, tiny, tiny_scenes

from scsa.engine import config as engine_config

TRAIN, TEST = 'tools/train.py', 'tools/test.py'
# What is true of the config and the runner, or of the files, when an option has done its work.
COMMON = {
    '--work-dir=w': lambda cfg, _: cfg.work_dir == 'w',
    '--cfg-options=randomness.seed=7': lambda cfg, _: cfg.randomness.seed == 7,
    '--launcher=pytorch': lambda cfg, _: cfg.launcher == 'pytorch',
    '--trust-checkpoint': lambda *_: os.environ['SCSA_TRUST_CHECKPOINT'] == '1',
}
OPTIONS = {
    TRAIN: {
        **COMMON,
        '--resume=c.pth': lambda cfg, _: cfg.get('resume') and cfg.load_from == 'c.pth',
        '--amp': lambda cfg, _: cfg.optim_wrapper.get('type') == 'AmpOptimWrapper',
        '--channels-last': lambda _, runner: 'ChannelsLastHook' in hooks_of(runner),
        '--no-validate': lambda cfg, _: cfg.val_cfg is cfg.val_dataloader is None,
        '--auto-scale-lr': lambda cfg, _: cfg.auto_scale_lr.get('enable'),
        '--leave-out=bad.txt': lambda _, run: run._train_dataloader['dataset']['left_out'],
        '--skip-bad=3': lambda _, run: run._train_dataloader['dataset']['skipped'],
    },
    TEST: {
        **COMMON,
        '--out=p.pkl': lambda _, runner: len(runner.test_evaluator.metrics) == 1,
        '--out=m.json': lambda *_: Path('m.json').exists(),
        '--show-dir=s': lambda cfg, _: cfg.default_hooks.visualization.get('out_dir') == 's',
        '--allow-missing': lambda _, runner: 'CompleteWeightsHook' not in hooks_of(runner),
        '--tta': lambda cfg, _: cfg.model.type == 'mmpretrain.AverageClsScoreTTA',
    },
}
PAIRS = [
    (tool, *pair)
    for tool in OPTIONS
    for pair in combinations(OPTIONS[tool], 2)
    if pair[0].split('=')[0] != pair[1].split('=')[0]
]
RECIPE = """
_base_ = '{base}'
pipeline = [dict(type='LoadImageFromFile'), dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(data_root='{digits}', pipeline=pipeline))
val_dataloader = dict(dataset=dict(data_root='{digits}'))
test_dataloader = val_dataloader
auto_scale_lr = dict(base_batch_size=64)
"""  # noqa: E501


def hooks_of(runner):
    return {type(call.args[0]).__name__ for call in runner.register_hook.call_args_list}


@pytest.fixture
def built(digits, tmp_path, monkeypatch):
    """Runs a tool in this process; the config its runner would be built from, and the runner."""
    from mmengine.runner import Runner

    (tmp_path / 'config.py').write_text(RECIPE.format(base=ROOT / CONFIG, digits=digits))
    (tmp_path / 'c.pth').touch()
    (tmp_path / 'bad.txt').write_text('a.png\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('SCSA_TRUST_CHECKPOINT', '0')
    monkeypatch.setattr(torch.distributed, 'init_process_group', lambda backend: None)
    monkeypatch.setattr(engine_config, 'is_cuda_available', lambda: True)

    def run(tool, *options):
        runner, configs = MagicMock(world_size=1), []
        runner.test.return_value = {'top1': 1.0}
        runner.test_evaluator.metrics = []
        monkeypatch.setattr(Runner, 'from_cfg', lambda cfg: (configs.append(cfg), runner)[1])
        files = ['config.py', 'c.pth'] if tool == TEST else ['config.py']
        monkeypatch.setattr(sys, 'argv', [tool, *files, *options])
        runpy.run_path(str(ROOT / tool), run_name='__main__')
        return configs[0], runner

    return run


@pytest.mark.parametrize(('tool', 'one', 'other'), PAIRS)
def test_both_do_their_work(tool, one, other, built):
    cfg, runner = built(tool, one, other)
    assert OPTIONS[tool][one](cfg, runner) and OPTIONS[tool][other](cfg, runner)
    assert runner.train.called == (tool == TRAIN)


@pytest.mark.parametrize('tool', OPTIONS)
def test_each_does_nothing_where_it_is_not_given(tool, built):
    """The guard of the test above: what it looks for is not there anyway."""
    cfg, runner = built(tool)
    assert [option for option, works in OPTIONS[tool].items() if works(cfg, runner)] == []


def test_a_run_is_watched(built):
    """What the hooks do is in tests of their own."""
    for tool, expected in (
        (TRAIN, {'ClassNames', 'FrozenWeights', 'FiniteLoss'}),
        (TEST, {'ClassNames'}),
    ):
        _, runner = built(tool)
        assert {f'{name}Hook' for name in expected} <= hooks_of(runner)


@pytest.mark.parametrize('batch', [64, 2])
def test_another_batch_than_that_of_the_recipe_is_said(batch, built):
    _, runner = built(TRAIN, f'--cfg-options=train_dataloader.batch_size={batch}')
    said = [call.args[0] for call in runner.logger.warning.call_args_list]
    assert len(said) == (batch != 64)
    assert all(line.startswith('a step takes 2 images, but the learning rate') for line in said)


@pytest.mark.parametrize('tool', OPTIONS)
def test_no_option_is_left_out(tool, monkeypatch):
    parsers = []
    monkeypatch.setattr(ArgumentParser, 'parse_args', lambda self: sys.exit(parsers.append(self)))
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / tool), run_name='__main__')
    shown = [action for action in parsers[0]._actions if action.help != SUPPRESS]
    names = {action.option_strings[-1] for action in shown if action.option_strings}
    assert names - {'--help'} == {option.split('=')[0] for option in OPTIONS[tool]}


@pytest.mark.skipif(torch.cuda.is_available(), reason='here is a device for mixed precision')
@pytest.mark.parametrize('other', [option for option in OPTIONS[TRAIN] if option != '--amp'])
def test_mixed_precision_without_a_device_is_one_line(other, built, monkeypatch, capsys):
    monkeypatch.setattr(engine_config, 'is_cuda_available', lambda: False)
    with pytest.raises(SystemExit) as stop:
        built(TRAIN, '--amp', other)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith('error: mixed precision needs a GPU')


# From here on whole runs. Every one of them has a work dir and settings; the others go in pairs.
RUNS = {
    TRAIN: [
        '--resume',
        '--channels-last',
        '--no-validate',
        '--auto-scale-lr',
        '--launcher=pytorch',
    ],
    TEST: ['--out=p.pkl', '--out=m.json', '--show-dir=s', '--tta', '--launcher=pytorch'],
}
RETINANET = """
_base_ = [
    '{root}/configs/quickstart/retinanet_r18_scenes_scsa.py',
    '{root}/configs/_base_/detection/retinanet_tta.py',
]
"""


@pytest.fixture(scope='module', params=['classification', 'detection', 'segmentation'])
def task(request, digits, scenes, tmp_path_factory):
    """Config of a task, settings that make it tiny, and a checkpoint half-way."""
    folder = tmp_path_factory.mktemp(request.param)
    half = 'train_cfg.max_epochs=1'
    if request.param == 'classification':
        config = folder / 'digits.py'
        config.write_text(RECIPE.format(base=ROOT / CONFIG, digits=digits))
        settings = tiny(digits, 'train_cfg.max_epochs=2')
    elif request.param == 'detection':
        config = folder / 'retinanet.py'
        config.write_text(RETINANET.format(root=ROOT))
        settings = tiny_scenes(scenes, config)
        settings += ['train_cfg.max_epochs=2', 'param_scheduler.total_steps=2']
        settings += ['model.test_cfg.score_thr=0']  # after one step no box is above 0.05
    else:
        config, settings = SEGMENTATION, tiny_scenes(scenes, SEGMENTATION)
        settings += ['train_cfg.max_iters=4', 'param_scheduler.0.total_steps=4']
        half = 'train_cfg.max_iters=2'
    settings.append('auto_scale_lr.base_batch_size=64')
    run_tool(TRAIN, config, '--work-dir', folder, *settings, half)
    return config, settings, Path((folder / 'last_checkpoint').read_text())


def run_pair(pair, command, folder):
    """Runs a tool in a process of its own; with a launcher, in one that torchrun starts."""
    if '--launcher=pytorch' in pair:
        launcher = ('-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=1')
        return run_python(*launcher, *command, '--work-dir', folder)
    return run_tool(*command, '--work-dir', folder)


@pytest.mark.slow
@pytest.mark.parametrize('pair', [*combinations(RUNS[TRAIN], 2)], ids='_'.join)
def test_training_with_both(pair, task, tmp_path):
    config, settings, half = task
    given = [option.replace('--resume', f'--resume={half}') for option in pair]
    seen = run_pair(pair, [TRAIN, config, *given, *settings], tmp_path)
    assert (tmp_path / half.name.replace('_1.', '_2.').replace('iter_2.', 'iter_4.')).exists()
    assert ('resumed epoch: ' in seen) == ('--resume' in pair)
    assert ('(val)' in seen) == ('--no-validate' not in pair)
    assert ('LR is set based on batch size of 64' in seen) == ('--auto-scale-lr' in pair)


@pytest.mark.slow
@pytest.mark.parametrize(
    'pair',
    [pair for pair in combinations(RUNS[TEST], 2) if pair[1] != '--out=m.json'],
    ids='_'.join,
)
def test_testing_with_both(pair, task, tmp_path):
    config, settings, half = task
    paths = [f'={tmp_path}/'.join(o.split('=')) if o[:5] != '--lau' else o for o in pair]
    run_pair(pair, [TEST, config, half, *paths, *settings], tmp_path)
    images = 20 if 'digits' in str(config) else 3
    if '--out=p.pkl' in pair:
        assert len(pickle.loads((tmp_path / 'p.pkl').read_bytes())) == images
    if '--out=m.json' in pair:
        assert json.loads((tmp_path / 'm.json').read_text())
    if '--show-dir=s' in pair:
        pictures = [*(tmp_path / 's').rglob('*.png'), *(tmp_path / 's').rglob('*.jpg')]
        assert len(pictures) == images

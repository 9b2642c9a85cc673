"""A run that goes wrong stops with one line; one that is told to stop can be resumed."""

import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from tools_helpers import CONFIG, ROOT, environment, refusal, save_checkpoint, tiny

pytest.importorskip('mmpretrain', reason='the hooks are those of runs with mmengine')
from mmengine.runner.checkpoint import load_state_dict

from scsa.cli import UserError
from scsa.engine.checkpoints import last_whole_checkpoint
from scsa.engine.hooks import CompleteWeightsHook, FiniteLossHook
from scsa.engine.safe_load import load


def steps(hook, *losses):
    hub = SimpleNamespace(runtime_info=dict(last_ckpt='work_dirs/a/epoch_3.pth'))
    optimizer = SimpleNamespace(get_lr=lambda: dict(lr=[0.1, 0.1]))
    runner = SimpleNamespace(iter=41, message_hub=hub, optim_wrapper=optimizer)
    for loss in losses:
        hook.after_train_iter(runner, 0, outputs=dict(loss=torch.tensor(loss)))


def test_a_loss_that_stays_not_finite_stops_the_run():
    message = r'not finite for 3 steps, to step 42, at learning rate 0\.1;.*epoch_3\.pth'
    with pytest.raises(UserError, match=message):
        steps(FiniteLossHook(3), 1.0, float('nan'), float('inf'), float('nan'))


def test_a_loss_that_comes_back_does_not():
    nan = float('nan')
    steps(FiniteLossHook(3), nan, nan, 1.0, nan, nan, 2.0)


def load_and_test(model, state):
    runner = SimpleNamespace(model=model, cfg=SimpleNamespace(load_from='a.pth'))
    hook = CompleteWeightsHook()
    hook.before_run(runner)
    load_state_dict(model, state)
    hook.before_test(runner)


def test_a_checkpoint_of_a_part_of_the_model_is_not_tested():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    state = model.state_dict()
    load_and_test(model, {k: v for k, v in state.items() if not k.endswith('num_batches_tracked')})
    for lost in ('0.bias', '1.running_mean'):
        part = {key: value for key, value in state.items() if key != lost}
        with pytest.raises(UserError, match=rf'a\.pth lacks 1 of 7 .*: {lost};.*--allow-missing'):
            load_and_test(model, part)
    other = dict(state, **{'0.bias': torch.zeros(3)})
    with pytest.raises(UserError, match=r'lacks 1 of 7 .*another shape\), .*: 0\.bias;'):
        load_and_test(model, other)


def test_the_checkpoint_of_another_task_is_not_tested(digits, tmp_path, monkeypatch, capsys):
    """The backbone fits, the head would stay random: 7.5 % without a word."""
    save_checkpoint(CONFIG, tmp_path / 'whole.pth', list('0123456789'))
    state = load(tmp_path / 'whole.pth')
    state['state_dict'] = {
        k: v for k, v in state['state_dict'].items() if k.startswith('backbone.')
    }
    torch.save(state, tmp_path / 'backbone.pth')
    options = [option for option in tiny(digits) if 'channels' not in option]
    work = ['--work-dir', tmp_path / 'work']
    tool = ('tools/test.py', CONFIG, tmp_path / 'backbone.pth', *options, *work)
    assert 'head.fc.weight' in refusal(monkeypatch, capsys, *tool)


@pytest.mark.slow
@pytest.mark.alone
def test_sigterm_saves_and_the_run_goes_on(digits, tmp_path):
    command = [sys.executable, 'tools/train.py', CONFIG, '--work-dir', str(tmp_path)]
    command += [*tiny(digits, 'train_cfg.max_epochs=200', 'param_scheduler.total_steps=200')]
    with open(tmp_path / 'out', 'w') as out:
        run = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=out, stderr=out)
        while not list(tmp_path.glob('epoch_*.pth')):
            assert run.poll() is None, (tmp_path / 'out').read_text()
            time.sleep(0.2)
        run.send_signal(signal.SIGTERM)
        assert run.wait(120) == 143
    assert 'stopped by SIGTERM' in (tmp_path / 'out').read_text()
    assert load(tmp_path / 'interrupted.pth')['state_dict']
    path, left_out = last_whole_checkpoint(tmp_path)
    assert path is not None and not left_out

"""Train and test the digits quick start through the tools, end to end."""

import json
import os
import pickle
import pty
import re
import runpy
import signal
import sys
import threading
import time

import pytest
import torch
from tools_helpers import (
    CONFIG,
    ROOT,
    forked_tools,
    refusal,
    run_python,
    run_tool,
    tiny,
)

from scsa.cli import UserError
from scsa.engine.checkpoints import last_checkpoint

pytestmark = pytest.mark.long


def weights(path):
    return torch.load(path, map_location='cpu', weights_only=False)['state_dict']


def train_on_a_terminal(*arguments):
    """Run training on a pseudo-terminal; return its exit code and what a person would have seen."""
    master, slave = pty.openpty()
    seen = []

    def read():
        try:
            while chunk := os.read(master, 4096):
                seen.append(chunk)
        except OSError:  # Linux: the other side was closed
            pass

    reader = threading.Thread(target=read)
    reader.start()  # a terminal that nobody reads would soon be full
    forked_tools().start(os.ttyname(slave), 'tools/train.py', *arguments)
    code = forked_tools().end()
    os.close(slave)
    reader.join()
    os.close(master)
    return code, b''.join(seen).decode()


@pytest.fixture(scope='module')
def trained(digits, tmp_path_factory):
    """A whole run of three epochs, watched on a terminal."""
    work_dir = tmp_path_factory.mktemp('whole')
    dropout = 'model.backbone.scsa_cfg.attn_drop_ratio=0.1'
    code, seen = train_on_a_terminal(CONFIG, '--work-dir', work_dir, *tiny(digits, dropout))
    assert code == 0, seen[-3000:]
    return work_dir, seen


def test_a_terminal_shows_one_line_that_updates(trained):
    _, seen = trained
    line = re.compile(r'\r\x1b\[Kepoch 2/3  step 1/3  loss \d+\.\d{4}  0:00:\d\d left')
    assert line.search(seen), seen[-2000:]


def test_without_a_terminal_there_is_no_such_line(digits, tmp_path):
    seen = run_tool(
        'tools/train.py', CONFIG, '--work-dir', tmp_path, '--no-validate',
        *tiny(digits, 'train_cfg.max_epochs=1'),
    )  # fmt: skip
    assert '\r' not in seen and 'Epoch(train)' in seen and 'Epoch(val)' not in seen


def test_channels_last_gives_the_same_weights(digits, tmp_path):
    """To rounding: it is another order of the same sums."""
    one_epoch, found = 'train_cfg.max_epochs=1', []
    for options in ([], ['--channels-last']):
        work_dir = tmp_path / f'run{len(found)}'
        run_tool('tools/train.py', CONFIG, '--work-dir', work_dir, '--no-validate', *options,
                 *tiny(digits, one_epoch))  # fmt: skip
        found.append(weights(work_dir / 'epoch_1.pth'))
    plain, last = found
    name = 'backbone.layer1.0.conv1.weight'
    assert plain[name].is_contiguous() and not last[name].is_contiguous()
    assert last[name].is_contiguous(memory_format=torch.channels_last)
    for key, value in plain.items():
        torch.testing.assert_close(last[key], value, rtol=1e-3, atol=1e-4)


def test_testing_reloads_the_checkpoint_and_writes_what_is_asked_for(trained, digits, tmp_path):
    work_dir, _ = trained
    arguments = ['tools/test.py', CONFIG, work_dir / 'epoch_3.pth', '--work-dir', tmp_path]
    metrics, predictions = tmp_path / 'out' / 'metrics.json', tmp_path / 'predictions.pkl'
    seen = run_tool(*arguments, '--out', predictions, '--show-dir', tmp_path / 'pictures',
                    *tiny(digits))  # fmt: skip
    assert 'accuracy/top1' in seen
    with predictions.open('rb') as file:
        samples = pickle.load(file)
    assert len(samples) == 20 and {'pred_label', 'gt_label', 'img_path'} <= set(samples[0])
    assert len(list((tmp_path / 'pictures').rglob('*.png'))) == 20

    run_tool(*arguments, '--out', metrics, *tiny(digits))
    assert 0 <= json.loads(metrics.read_text())['accuracy/top1'] <= 100


def test_augmentation_in_testing_is_drawn(trained, digits, tmp_path):
    flips = [f'train_dataloader.dataset.pipeline.1.{x}' for x in ('type=RandomFlip', 'prob=0.5')]
    run_tool(
        'tools/test.py', CONFIG, trained[0] / 'epoch_3.pth', '--work-dir', tmp_path, '--tta',
        '--show-dir', tmp_path / 'pictures', '--out', tmp_path / 'metrics.json',
        *tiny(digits, *flips),
    )  # fmt: skip
    assert 0 <= json.loads((tmp_path / 'metrics.json').read_text())['accuracy/top1'] <= 100
    assert len(list((tmp_path / 'pictures').rglob('*.png'))) == 20


def test_no_mirror_images_where_training_has_none(digits, tmp_path, monkeypatch, capsys):
    weights = tmp_path / 'weights.pth'
    weights.touch()
    line = refusal(monkeypatch, capsys, 'tools/test.py', CONFIG, weights, '--tta', *tiny(digits))
    assert '--tta averages the flips of the training' in line


def test_flips_are_those_of_the_training():
    from mmengine.config import Config

    from scsa.engine.testing import use_tta

    cfg = Config.fromfile(ROOT / CONFIG)
    flip = dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical'])
    cfg.train_dataloader.dataset.pipeline.insert(1, flip)
    use_tta(cfg)
    views = cfg.tta_pipeline[-1]['transforms'][0]
    assert [view.get('direction') for view in views] == [None, 'horizontal', 'vertical']


def test_the_report_draws_curves_and_predictions(trained, digits):
    work_dir, _ = trained
    run_tool(
        'tools/test.py', CONFIG, work_dir / 'epoch_3.pth', '--work-dir', work_dir,
        '--out', work_dir / 'predictions.pkl', *tiny(digits),
    )  # fmt: skip
    seen = run_tool('tools/analysis/quickstart_report.py', work_dir, work_dir)
    assert re.search(r'top-1 +\d+\.\d\d %  \(\d+ of 20;', seen)
    for name in ('curves.png', 'predictions.png', 'comparison.png'):
        assert (work_dir / name).stat().st_size > 5000


@pytest.mark.parametrize('workers', [0, 2])
def test_a_killed_run_that_is_resumed_ends_with_the_same_weights(
    workers, trained, digits, tmp_path
):
    options = tiny(
        digits,
        'model.backbone.scsa_cfg.attn_drop_ratio=0.1',
        f'train_dataloader.num_workers={workers}',
    )
    whole = trained[0]
    if workers:  # workers draw other random numbers than the main process
        whole = tmp_path / 'whole'
        run_tool('tools/train.py', CONFIG, '--work-dir', whole, *options)
    killed = tmp_path / 'killed'
    command = ['tools/train.py', CONFIG, '--work-dir', killed, *options]
    process = forked_tools().start(tmp_path / 'log', *command)
    while last_checkpoint(killed) is None:
        os.killpg(process, 0)  # raises where it has ended without a checkpoint
        time.sleep(0.001)
    os.killpg(process, signal.SIGKILL)
    assert forked_tools().end() == -signal.SIGKILL
    assert not (killed / 'epoch_3.pth').exists(), 'killed too late to prove anything'
    run_tool(*command, '--resume')
    expected, found = weights(whole / 'epoch_3.pth'), weights(killed / 'epoch_3.pth')
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_what_a_run_is_resumed_from(tmp_path):
    assert last_checkpoint(tmp_path) is None
    note = tmp_path / 'last_checkpoint'
    note.write_text('')  # killed while it was written
    assert last_checkpoint(tmp_path) is None
    for time_, name in enumerate(('epoch_9.pth', 'epoch_10.pth', 'best_accuracy_epoch_2.pth')):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time_, time_))
    assert last_checkpoint(tmp_path) == tmp_path / 'epoch_10.pth'
    note.write_text('work_dirs/elsewhere/epoch_9.pth')  # from another folder, or moved since
    assert last_checkpoint(tmp_path) == tmp_path / 'epoch_9.pth'
    note.write_text('epoch_11.pth')
    with pytest.raises(UserError, match='last_checkpoint names not found'):
        last_checkpoint(tmp_path)
    note.write_text('epoch_9.pth')  # killed after epoch 10 was written and before it was noted,
    (tmp_path / 'epoch_9.pth').unlink()  # where a single checkpoint is kept
    os.utime(note, (0.5, 0.5))
    assert last_checkpoint(tmp_path) == tmp_path / 'epoch_10.pth'


@pytest.mark.parametrize('saved', [True, False])
def test_resume_goes_before_load_from(saved, digits, tmp_path, monkeypatch):
    """Where there is something to resume; else what the config says to load is loaded."""
    from mmengine.runner import Runner

    configs = []
    monkeypatch.setattr(Runner, 'from_cfg', lambda cfg: sys.exit(configs.append(cfg)))
    monkeypatch.chdir(ROOT)
    if saved:
        torch.save({}, tmp_path / 'epoch_1.pth')  # whole, or it is refused
        (tmp_path / 'last_checkpoint').write_text('epoch_1.pth')
    (tmp_path / 'other.pth').touch()
    arguments = (
        '--work-dir',
        tmp_path,
        '--resume',
        *tiny(digits, f'load_from={tmp_path}/other.pth'),
    )
    monkeypatch.setattr(sys, 'argv', ['tools/train.py', CONFIG, *map(str, arguments)])
    with pytest.raises(SystemExit):
        runpy.run_path('tools/train.py', run_name='__main__')
    (cfg,) = configs
    assert cfg.resume == saved
    assert cfg.load_from == str(tmp_path / ('epoch_1.pth' if saved else 'other.pth'))


def test_the_seed_of_every_epoch_is_another(trained):
    # The guard of the test above: had nothing been random, it would prove little.
    first, last = weights(trained[0] / 'epoch_1.pth'), weights(trained[0] / 'epoch_3.pth')
    key = 'backbone.layer1.0.attn.q.weight'
    assert not torch.equal(first[key], last[key])


def test_two_processes_train_with_torchrun(digits, tmp_path):
    seen = run_python(
        '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
        'tools/train.py', CONFIG, '--launcher', 'pytorch', '--work-dir', tmp_path,
        *tiny(digits, 'train_cfg.max_epochs=1', 'train_dataloader.batch_size=16'),
    )  # fmt: skip
    assert 'GPU number: 2' in seen and (tmp_path / 'epoch_1.pth').exists()
    # 96 images, 16 a process: three steps, not six.
    assert 'Epoch(train) [1][3/3]' in re.sub(' +', ' ', seen)

"""Checkpoints are read safely wherever mmengine reads them, written whole, and found again."""

import functools
import http.server
import resource
import signal
import threading

import pytest
import torch

mmengine_runner = pytest.importorskip('mmengine.runner', reason='these are files of mmengine')
from mmengine.config import Config  # noqa: E402
from mmengine.fileio import get_file_backend  # noqa: E402
from mmengine.model import BaseModule  # noqa: E402
from test_safe_load import write_malicious  # noqa: E402

from scsa.cli import UserError  # noqa: E402
from scsa.engine.checkpoints import (  # noqa: E402
    WHOLE,
    last_whole_checkpoint,
    read_safely,
    write_whole,
)
from scsa.engine.safe_load import RefusedCheckpoint  # noqa: E402


@pytest.fixture
def malicious(tmp_path, monkeypatch):
    monkeypatch.delenv('SCSA_TRUST_CHECKPOINT', raising=False)
    read_safely()
    path, witness = tmp_path / 'weights.pth', tmp_path / 'ran'
    write_malicious('eval', path, witness)
    yield path
    assert not witness.exists()


def test_load_checkpoint_and_init_cfg_refuse_a_malicious_file(malicious):
    with pytest.raises(RefusedCheckpoint, match=r'weights\.pth'):
        mmengine_runner.load_checkpoint(torch.nn.Linear(2, 2), str(malicious))
    module = BaseModule(dict(type='Pretrained', checkpoint=str(malicious)))
    with pytest.raises(RefusedCheckpoint, match=r'weights\.pth'):
        module.init_weights()


def test_a_malicious_file_of_a_server_is_refused(malicious, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    torch.save({'weight': torch.ones(2, 2)}, tmp_path / 'honest.pth')
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}'
        with pytest.raises(RefusedCheckpoint, match=r'weights\.pth'):
            mmengine_runner.load_checkpoint(torch.nn.Linear(2, 2), f'{address}/weights.pth')
        model = torch.nn.Linear(2, 2)
        mmengine_runner.load_checkpoint(model, f'{address}/honest.pth')
        server.shutdown()
    assert model.weight.eq(1).all()


def whole_file(path, content):
    get_file_backend(str(path), backend_args=dict(backend=WHOLE)).put(content, str(path))


def test_a_file_that_cannot_be_written_leaves_the_old_one_whole(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    whole_file(path, b'old')
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(UserError, match=r'epoch_1.pth cannot be written.*--resume'):
            whole_file(path, bytes(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == b'old'
    assert [file.name for file in tmp_path.iterdir()] == ['epoch_1.pth']


def test_the_oldest_checkpoint_goes_when_the_newest_is_written(tmp_path):
    """A hook removes before it writes: with one kept, a full disk would leave none."""
    old, new = tmp_path / 'epoch_1.pth', tmp_path / 'epoch_2.pth'
    whole_file(old, b'old')
    get_file_backend(str(old), backend_args=dict(backend=WHOLE)).remove(str(old))
    assert old.exists()
    whole_file(new, b'new')
    assert not old.exists() and new.read_bytes() == b'new'


def test_what_a_kill_left_goes_when_the_next_is_written(tmp_path):
    (tmp_path / 'best_top1_epoch_3.pth.part').write_bytes(b'hal')
    (tmp_path / 'notes.part').write_bytes(b'of another')
    whole_file(tmp_path / 'epoch_4.pth', b'new')
    assert {file.name for file in tmp_path.iterdir()} == {'epoch_4.pth', 'notes.part'}


def test_only_checkpoints_on_a_disk_are_written_by_it():
    hook = dict(type='CheckpointHook', interval=1)
    local, store, own = (
        Config(dict(default_hooks=dict(checkpoint=dict(hook, **more))))
        for more in ({}, dict(out_dir='s3://runs'), dict(backend_args=dict(backend='local')))
    )
    for cfg in (local, store, own):
        write_whole(cfg)
    assert local.default_hooks.checkpoint.backend_args == dict(backend=WHOLE)
    assert 'backend_args' not in store.default_hooks.checkpoint
    assert own.default_hooks.checkpoint.backend_args == dict(backend='local')


def write_epochs(folder, count):
    for epoch in range(1, count + 1):
        torch.save({'epoch': epoch}, folder / f'epoch_{epoch}.pth')
    (folder / 'last_checkpoint').write_text(str(folder / f'epoch_{count}.pth'))


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def test_a_run_is_resumed_from_the_newest_checkpoint_that_is_whole(tmp_path):
    write_epochs(tmp_path, 3)
    assert last_whole_checkpoint(tmp_path) == (tmp_path / 'epoch_3.pth', [])
    cut(tmp_path / 'epoch_3.pth')
    path, left_out = last_whole_checkpoint(tmp_path)
    assert path.name == 'epoch_2.pth'
    assert len(left_out) == 1 and 'epoch_3.pth is damaged' in left_out[0]


def test_without_a_whole_checkpoint_there_is_one_line(tmp_path):
    write_epochs(tmp_path, 2)
    for path in tmp_path.glob('*.pth'):
        cut(path)
    with pytest.raises(UserError, match=r'no checkpoint.*epoch_2.pth.*epoch_1.pth'):
        last_whole_checkpoint(tmp_path)


def test_without_a_run_there_is_nothing_to_resume(tmp_path):
    assert last_whole_checkpoint(tmp_path) == (None, [])

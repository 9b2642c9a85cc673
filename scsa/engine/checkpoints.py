"""Checkpoints of mmengine: read safely, written whole, the newest one that is whole found."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.fileio import LocalBackend, get_file_backend, register_backend
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from ..cli import UserError, existing
from .safe_load import RefusedCheckpoint, check, load

WHOLE = 'scsa.whole'  # the backend's name in a config's `backend_args`
OUTDATED: list[str] = []  # files that go when the next is written


def read_safely() -> None:
    """Lets everything that mmengine loads go through `safe_load.load`.

    That is ``load_from``, ``resume``, ``init_cfg`` and `load_checkpoint`, from files, addresses
    and model zoos. tools/train.py and tools/test.py call this; ``import scsa`` does not, for a
    package that is imported should not change how another project reads its files. Such a project
    calls it by itself, or asks for it in a config: ``custom_imports = ['scsa.engine.safely']``.
    """
    CheckpointLoader.register_scheme('', _from_file, force=True)
    CheckpointLoader.register_scheme(('http://', 'https://'), _from_address, force=True)
    CheckpointLoader.register_scheme(
        [r'(\S+\:)?s3://', r'(\S+\:)?petrel://'], _from_store, force=True
    )
    mmengine_checkpoint.load_from_http = _from_address  # which the model zoos' schemes call


def _from_file(filename: str, map_location: Any = None) -> Any:
    return load(existing(os.path.expanduser(filename), 'checkpoint', 'give another'), map_location)


def _from_address(
    filename: str, map_location: Any = None, model_dir: str | None = None, progress: bool = True
) -> Any:
    """Loads a file from the network, kept in the folder where torch keeps such files."""
    folder = Path(model_dir or Path(torch.hub.get_dir()) / 'checkpoints')
    file = folder / Path(urlparse(filename).path).name
    if not file.exists():
        _download(filename, file, progress)
    return load(file, map_location)


@master_only
def _download(address: str, file: Path, progress: bool) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    prefix = re.search(r'-([a-f0-9]{8,})\.', file.name)  # of the file's SHA-256, as torchvision's
    torch.hub.download_url_to_file(address, str(file), prefix and prefix[1], progress)


def _from_store(filename: str, map_location: Any = None, backend: str = 'petrel') -> Any:
    store = get_file_backend(filename, backend_args={'backend': backend})
    return load(io.BytesIO(store.get(filename)), map_location)


class WholeFileBackend(LocalBackend):
    """The local disk, on which a file is either whole or as it was before.

    It is written under another name, synced, renamed. A file that is to be removed stays until the
    next one is written: mmengine removes the oldest checkpoint before it saves the newest, which
    on a full disk would leave none.
    """

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Writes a file.

        Raises:
            UserError: It cannot be written (a full disk, a folder without permission); what was
                there before is still there.
        """
        part = Path(f'{filepath}.part')
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            with open(part, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, filepath)
            _sync_folder(part.parent)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise UserError(
                f'checkpoint {filepath} cannot be written: {error.strerror}; the ones before it '
                'are whole: mend that and go on with --resume'
            ) from error
        left_by_kills = part.parent.glob('*.pth.part')
        for path in [*OUTDATED, *left_by_kills]:
            if str(path) != str(filepath):
                Path(path).unlink(missing_ok=True)
        OUTDATED.clear()

    def remove(self, filepath: str | Path) -> None:
        """Removes a file as soon as the next is written."""
        OUTDATED.append(str(filepath))


register_backend(WHOLE, WholeFileBackend)


def write_whole(cfg: Config) -> None:
    """Lets the checkpoints of a run be written by `WholeFileBackend`, unless they go elsewhere."""
    hook = cfg.get('default_hooks', {}).get('checkpoint')
    if hook and '://' not in str(hook.get('out_dir') or '') and not hook.get('backend_args'):
        hook.backend_args = dict(backend=WHOLE)


def last_checkpoint(work_dir: str) -> Path | None:
    """What a run in this work dir is to be resumed from, if anything.

    mmengine notes the path in a file beside the checkpoint. That path may be relative to another
    folder than this. A run that was killed while it noted it has left an empty file; one that was
    killed before, with one checkpoint kept, the name of the last but one, which is gone. Then it
    is the newest checkpoint, which was written before the note.

    Raises:
        UserError: The checkpoint that is noted is gone.
    """
    folder = Path(work_dir)
    note = folder / 'last_checkpoint'
    if not note.exists():
        return None
    noted = note.read_text('utf-8').strip()
    if not noted:
        return next(iter(_newest_first(folder)), None)
    beside = folder / Path(noted).name
    if beside.exists():
        return beside
    newest = next(iter(_newest_first(folder)), None)
    if newest and newest.stat().st_mtime_ns >= note.stat().st_mtime_ns:
        return newest
    return existing(noted, f'checkpoint that {note} names', 'give another to --resume')


def last_whole_checkpoint(work_dir: str) -> tuple[Path | None, list[str]]:
    """What a run is to be resumed from: the last checkpoint, or the newest before it that is whole.

    Returns:
        The file, and a line for each that was left out, with the reason.

    Raises:
        UserError: The checkpoint that is noted is gone, or none is whole.
    """
    last, left_out = last_checkpoint(work_dir), []
    if last is None:
        return None, []
    for path in [last, *(path for path in _newest_first(last.parent) if path != last)]:
        try:
            check(path)
            return path, left_out
        except RefusedCheckpoint as error:
            left_out.append(str(error))
    raise UserError(f'no checkpoint in {work_dir} is whole: {" | ".join(left_out)}')


def keep_seed(cfg: Config) -> None:
    """Lets a resumed run whose config names no seed draw from the one that it began with.

    mmengine takes it over too, but only when data and workers have been set up with another.
    """
    if (cfg.get('randomness') or {}).get('seed') is None:
        seed = (load(cfg.load_from).get('meta') or {}).get('seed')
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)


def _newest_first(folder: Path) -> list[Path]:
    found = [*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _sync_folder(folder: Path) -> None:
    """Makes a new name in a folder outlive a loss of power, where the system can."""
    if os.name == 'posix':
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

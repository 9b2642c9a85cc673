"""Files that cannot be read in a run: name the first, or skip some; images that are left out."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import AbstractSet, Any, Callable

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import Runner

from ..cli import UserError, existing


class BadFile(UserError):
    """A file that cannot be read.

    A loader's process hands an error on as its traceback, of which PyTorch makes a new error of
    the same class: the last line of it is the message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rstrip().rsplit(f'{__name__}.BadFile: ', 1)[-1])


class SkippedFiles:
    """The files that a run has skipped, noted in a file by all of its processes.

    A loader's processes come and go and share no memory, so each appends what it skips and then
    counts the lines. A file that is met again, in the next epoch or by another process, is counted
    once.

    Args:
        path: Where they are noted: a line each, with the reason behind a tab.
        limit: How many may be skipped.
    """

    def __init__(self, path: str | Path, limit: int) -> None:
        self.path, self.limit = str(path), limit

    def read(self) -> dict[str, str]:
        """The files that have been skipped, with the reason."""
        try:
            text = Path(self.path).read_text('utf-8')
        except FileNotFoundError:
            return {}
        return {file: why for file, _, why in (line.partition('\t') for line in text.splitlines())}

    def add(self, file: str, why: str) -> None:
        """Note a file.

        Raises:
            BadFile: It is one too many.
        """
        if file in self.read():
            return
        with open(self.path, 'a', encoding='utf-8') as notes:
            notes.write(f'{file}\t{why}\n')  # a line in one piece, whoever else writes
        found = self.read()
        if len(found) > self.limit:
            raise BadFile(
                f'{len(found)} files cannot be read, and --skip-bad is {self.limit}: the last is '
                f'{file}: {why}; {self.path} names them all'
            )

    def size(self) -> int:
        """Grows with each file that is noted; what a step may ask for, since it takes no time."""
        return os.path.getsize(self.path) if os.path.exists(self.path) else 0


class CarefulLoad:
    """A loading step of a pipeline that says which file it could not read.

    Args:
        load: The step.
        skipped: Where the file is noted if it is skipped: then the pipeline gives None, and
            mmengine draws another image at random. None, where none may be skipped.
        advice: What the message ends with.
    """

    def __init__(self, load: Callable, skipped: SkippedFiles | None, advice: str) -> None:
        self.load, self.skipped, self.advice = load, skipped, advice

    def __call__(self, results: dict) -> dict | None:
        image = str(results.get('img_path'))
        try:
            return self.load(results)
        except Exception as error:  # each decoder raises its own
            file, why = image, _reason(error)
            if 'Image' not in type(self.load).__name__:
                file = str(results.get('seg_map_path') or image)
                why = f'annotations: {why}'
            if self.skipped is None:
                raise BadFile(f'{file} cannot be read: {why}; {self.advice}') from error
            self.skipped.add(file, why)
            return None

    def __repr__(self) -> str:
        return repr(self.load)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, AssertionError) and 'failed to load image' in str(error):
        return 'it cannot be decoded'
    return ' '.join(f'{type(error).__name__}: {error}'.split())


def read_carefully(
    runner: Runner,
    cfg: Config,
    skipped: SkippedFiles | None = None,
    left_out: AbstractSet[str] = frozenset(),
) -> None:
    """Let the loaders of a run name a file that they cannot read.

    It is done between the building of the runner, which writes the config down, and its start,
    when the loaders and their processes are made.

    Args:
        runner: One that has built no loader yet.
        cfg: Its config.
        skipped: Where training notes the files that it skips; None, if it skips none.
        left_out: Absolute paths of images, or of label maps, not to train on.
    """
    find = 'tools/data/check.py CONFIG finds all such files'
    train = partial(
        _careful,
        skipped=skipped,
        left_out=left_out,
        advice=f'{find}; train without them by --leave-out FILE or --skip-bad N',
    )
    other = partial(_careful, skipped=None, left_out=frozenset(), advice=find)
    for name, careful in (('train', train), ('val', other), ('test', other)):
        loader = cfg.get(f'{name}_dataloader')
        if isinstance(loader, dict) and isinstance(loader.get('dataset'), dict):
            setattr(
                runner, f'_{name}_dataloader', {**loader, 'dataset': careful(loader['dataset'])}
            )


def _careful(node: dict, **how: Any) -> dict:
    """A data set's config in which the innermost ones are built by `careful_dataset`."""
    if 'dataset' in node:
        return {**node, 'dataset': _careful(node['dataset'], **how)}
    if 'datasets' in node:
        return {**node, 'datasets': [_careful(inner, **how) for inner in node['datasets']]}
    return dict(type=careful_dataset, config=node, **how)


def careful_dataset(
    config: dict, skipped: SkippedFiles | None, left_out: AbstractSet[str], advice: str
) -> Any:
    """Build a data set whose pipeline loads carefully, without the images to leave out."""
    dataset = DATASETS.build(config)
    if not isinstance(dataset, BaseDataset) or dataset.test_mode:
        skipped = None  # nothing there takes another image for one that is None
    if hasattr(dataset, 'pipeline'):
        _load_carefully(dataset.pipeline, skipped, advice)
    if left_out:
        _leave_out(dataset, left_out)
    return dataset


def _load_carefully(pipeline: Any, skipped: SkippedFiles | None, advice: str) -> None:
    """Replace the loading steps of a pipeline, and of those inside of its steps."""
    for i, step in enumerate(getattr(pipeline, 'transforms', [])):
        if type(step).__name__.startswith('Load'):
            pipeline.transforms[i] = CarefulLoad(step, skipped, advice)
            continue
        inner = getattr(step, 'subroutines', None) or getattr(step, 'transforms', None) or []
        for one in inner if isinstance(inner, list) else [inner]:
            _load_carefully(one, skipped, advice)


def _leave_out(dataset: Any, left_out: AbstractSet[str]) -> None:
    if not isinstance(dataset, BaseDataset):
        raise UserError(f'--leave-out: {type(dataset).__name__} is no data set of mmengine')
    dataset.full_init()
    whole = range(len(dataset))
    kept = [i for i in whole if not _paths(dataset.get_data_info(i)) & left_out]
    count = len(whole) - len(kept)
    print_log(f'{count} of {len(whole)} training images are left out', 'current')
    if not kept:
        raise UserError('--leave-out leaves no image to train on')
    if count:
        dataset.get_subset_(kept)


def _paths(info: dict) -> set[str]:
    """The files of an image: it, and its label map."""
    files = (info.get('img_path'), info.get('seg_map_path'))
    return {os.path.abspath(file) for file in files if file}


def read_paths(file: str | Path) -> set[str]:
    """Read a list of images: one a line, what is behind a tab or a ``#`` at its begin left out."""
    text = existing(file, 'list', 'tools/data/check.py CONFIG --fix-list FILE writes one')
    lines = [line.partition('\t')[0].strip() for line in text.read_text('utf-8').splitlines()]
    return {os.path.abspath(line) for line in lines if line and not line.startswith('#')}


@HOOKS.register_module()
class SkippedFilesHook(Hook):
    """Say which files are skipped, when it happens and at the end.

    Args:
        skipped: Where all processes of the run note them.
    """

    def __init__(self, skipped: SkippedFiles) -> None:
        self.skipped, self.size, self.said = skipped, 0, 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        size = self.skipped.size()
        if size == self.size:
            return
        found = list(self.skipped.read().items())
        for number, (file, why) in enumerate(found[self.said :], self.said + 1):
            runner.logger.warning(
                f'skipped {file}: {why} ({number} of at most {self.skipped.limit})'
            )
        self.size, self.said = size, len(found)

    def after_train(self, runner: Runner) -> None:
        found = self.skipped.read()
        where = f'; {self.skipped.path} names them: {", ".join(found)}' if found else ''
        runner.logger.warning(f'{len(found)} files could not be read and were skipped{where}')

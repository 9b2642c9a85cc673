"""Find what is wrong with the data of a config before it is trained on."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Callable, Iterable, Iterator, Sequence

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from tqdm import tqdm

from ..cli import UserError
from . import check_lists
from .check_files import Fault, Reading, Sample, Seen, look_at

KINDS = {
    'not-found': 'a file that a list or an annotation names and that is not there',
    'unreadable': 'an image or a label map that cannot be decoded',
    'truncated': 'one that ends too early',
    'channels': 'an image with another number of channels than training reads',
    'size': 'an image with another size than the annotations state',
    'label-map': 'a label map of another size than its image, or with several channels',
    'label-value': 'a label beyond the classes',
    'box-area': 'a box without area',
    'box-outside': 'a box that reaches out of its image',
    'duplicate': 'an id, or an image, that is there twice',
    'empty-class': 'a class without an image',
    'unknown-class': 'a class that the annotations do not have',
    'annotation': 'an entry, or a file, that cannot be understood',
    'empty': 'no image at all',
}
# What can be meant so: counted, and no fault, unless it is asked for.
HINTS = {
    'grey': 'a grey image among coloured ones, or the other way round',
    'depth': 'an image of more than 8 bits a value, of which 8 are read',
    'decoder': 'an image that is decoded, under protest of the decoder',
    'unused-class': 'boxes of a class that the config does not name',
}
# What one loader may have other than the next, and the images be the same.
NOT_THE_DATA = ('pipeline', 'test_mode', 'filter_cfg', 'indices', 'serialize_data', 'max_refetch')
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


@dataclass
class Checked:
    """What has been found in one data set.

    Attributes:
        loaders: The keys of the config that it is read by.
        type: Its class.
        where: Its list, annotation file or folder.
        images: How many it has.
        boxes: How many boxes, where it has any.
        faults: What is wrong.
        hints: What may be wrong.
    """

    loaders: list[str]
    type: str
    where: str
    images: int = 0
    boxes: int = 0
    faults: list[Fault] = field(default_factory=list)
    hints: list[Fault] = field(default_factory=list)

    def summary(self) -> str:
        """The counts, as a table."""
        rows = [('images', self.images)] + [('boxes', self.boxes)] * bool(self.boxes)
        rows.append(('faults', len(self.faults)))
        rows += [(f'  {kind}', n) for kind, n in Counter(f.kind for f in self.faults).items()]
        hints = Counter(f.kind for f in self.hints)
        rows += [(f'not counted: {kind}', n) for kind, n in hints.items()]
        width = max(len(name) for name, _ in rows)
        lines = [f'  {name:<{width}}  {count:>9,}' for name, count in rows]
        return '\n'.join([f'{", ".join(self.loaders)}: {self.type}, {self.where}', *lines])

    def as_dict(self) -> dict:
        """All of it, for JSON."""
        return asdict(self)


def check(
    cfg: Config,
    datasets: Iterable[tuple[str, dict]],
    jobs: int = 1,
    uncounted: Iterable[str] = tuple(HINTS),
    say: Callable[[str], None] = print,
) -> list[Checked]:
    """Look at every image, label map, list and annotation of a config.

    Args:
        cfg: The config.
        datasets: Each data set of it, with its key; the same one may come more than once.
        jobs: Processes to read files with.
        uncounted: Kinds that are no faults.
        say: Gets a line for each fault as soon as it is found.

    Returns:
        What has been found, a data set each. A subset that ``indices`` chooses is not looked at
        alone, but all of the set.
    """
    found: dict[str, tuple[list[str], dict]] = {}
    for key, dataset in datasets:
        same = {k: v for k, v in dataset.items() if k not in NOT_THE_DATA}
        found.setdefault(repr(same), ([], dataset))[0].append(re.sub(r'\.dataset\b', '', key))
    with _mapper(jobs) as look, DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        return [
            _check(keys, config, _build(keys[0], config), cfg, look, set(uncounted), say)
            for keys, config in found.values()
        ]


def _build(key: str, config: dict) -> Any:
    """Build a data set that has read nothing yet."""
    whole = {k: v for k, v in config.items() if k != 'indices'}
    try:
        return DATASETS.build({**whole, 'pipeline': [], 'lazy_init': True})
    except (TypeError, ValueError) as error:
        raise UserError(f'{key}: the data set does not build: {error}') from error


@contextmanager
def _mapper(jobs: int) -> Iterator[Callable]:
    """What looks at many samples: this process, or a pool of others."""
    if jobs == 1:
        yield lambda samples, reading: map(partial(look_at, reading=reading), samples)
        return
    # Ctrl-C is for this process, which then lets the others end.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(jobs, initializer=signal.signal, initargs=ignore) as pool:
        yield lambda samples, reading: pool.map(
            partial(look_at, reading=reading),
            samples,
            chunksize=min(64, len(samples) // (4 * jobs) + 1),
        )


def _check(
    keys: list[str],
    config: dict,
    dataset: Any,
    cfg: Config,
    look: Callable,
    uncounted: set,
    say: Callable,
) -> Checked:
    listing = check_lists.read(dataset, _num_classes(cfg.get('model')))
    checked = Checked(keys, type(dataset).__name__, listing.where)
    checked.images, checked.boxes = len(listing.samples), listing.boxes

    def note(fault: Fault) -> None:
        if fault.kind in uncounted:
            checked.hints.append(fault)
            return
        checked.faults.append(fault)
        say(str(fault))

    for fault in listing.faults:
        note(fault)
    reading = _reading(cfg, config, listing.labels)
    shown, grey = set(), []
    seen: Iterable[Seen] = look(listing.samples, reading)
    # No bar where nobody looks on.
    for one in tqdm(seen, keys[0], len(listing.samples), unit='image', disable=None):
        for fault in one.faults:
            note(fault)
        shown |= one.classes
        grey.append(one.grey)
    for fault in _odd_ones(listing.samples, grey):
        note(fault)
    if listing.labels:
        listing.used = shown
    if listing.used is not None and listing.samples:
        for fault in _without_images(listing):
            note(fault)
    return checked


def _odd_ones(samples: Sequence[Sample], grey: list[bool | None]) -> Iterator[Fault]:
    """The grey images among coloured ones, or the other way round."""
    few = grey.count(True) <= grey.count(False)
    if True in grey and False in grey:
        for sample, is_grey in zip(samples, grey):
            if is_grey == few:
                what = 'grey among coloured' if few else 'coloured among grey'
                yield Fault('grey', sample.image, f'{what} images', sample.image)


def _without_images(listing: check_lists.Listing) -> Iterator[Fault]:
    missing = [name for label, name in enumerate(listing.names) if label not in listing.used]
    lack = 'pixel' if listing.labels else 'image'
    if missing and len(missing) == len(listing.names):
        detail = f'there is no {lack} of any of the {len(missing)} classes'
        yield Fault('empty-class', listing.where, detail)
        return
    for name in missing:
        yield Fault('empty-class', listing.where, f'there is no {lack} of class {name!r}')


def _num_classes(model: Any) -> int | None:
    """How many classes the head of a model tells apart."""
    heads = [model.get(k) for k in ('head', 'decode_head', 'bbox_head')] if model else []
    for head in heads:
        head = head[-1] if isinstance(head, (list, tuple)) else head
        if head and head.get('num_classes'):
            return head['num_classes']
    return None


def _reading(cfg: Config, dataset: dict, labels: dict | None) -> Reading:
    """What the loading step of a pipeline does, and what the model takes."""
    load: dict = {}
    for step in dataset.get('pipeline', []):
        kind = step.get('type')
        if str(getattr(kind, '__name__', kind)).split('.')[-1] == 'LoadImageFromFile':
            load = step
    model = cfg.get('model') or {}
    means = [(node.get('data_preprocessor') or {}).get('mean') for node in (model, cfg)]
    mean = next((m for m in means if isinstance(m, (list, tuple))), None)
    return Reading(
        color_type=load.get('color_type', 'color'),
        backend=load.get('imdecode_backend', 'cv2'),
        backend_args=load.get('backend_args'),
        channels=len(mean) if mean else None,
        labels=labels,
    )


def print_line(line: str) -> None:
    """Print above the bar."""
    tqdm.write(line, file=sys.stdout)


def to_leave_out(found: Iterable[Checked]) -> dict[str, str]:
    """The images that training does better without, and why."""
    faults = [fault for checked in found for fault in checked.faults if fault.image]
    return {f.image: f'{f.kind}: {f.detail}' for f in sorted(faults, key=lambda f: f.image)}


def usable_cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1

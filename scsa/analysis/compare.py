"""Train and test configs for several seeds, each run in processes of its own, resumable always.

What a run has reached is in files alone, so nothing is lost with the process that started it::

    OUT/NAME/NAME.py              the config, with its options merged
    OUT/NAME/seed0/epoch_*.pth    its training, as tools/train.py leaves it, and log.txt
    OUT/NAME/seed0/trained        the training is at its end
    OUT/NAME/seed0/metrics.json   the run is done: what tools/test.py found
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Iterator, NamedTuple

from mmengine.config import Config

from ..cli import UserError
from ..engine.checkpoints import last_checkpoint
from ..engine.config import RUNS, check_files, load_config
from .logs import parsed

PACKAGE = Path(__file__).resolve().parents[2]  # where the processes find the same scsa as this one
CLEAR = '\r\033[K'


class Candidate(NamedTuple):
    """A config to compare."""

    name: str
    path: Path  # of the copy in OUT
    cfg: Config


class Run(NamedTuple):
    """One config with one seed."""

    config: Candidate
    seed: int
    folder: Path

    @property
    def metrics(self) -> Path:
        return self.folder / 'metrics.json'

    @property
    def label(self) -> str:
        return f'{self.config.name} seed {self.seed}'


def names_of(paths: list[str]) -> list[str]:
    """Short names of configs, each another: the file's, else the whole path's.

    Raises:
        UserError: if a config is given twice.
    """
    stems = [Path(path).stem for path in paths]
    whole = ['_'.join(Path(path).with_suffix('').parts).lstrip('/_.') for path in paths]
    names = [w if stems.count(stem) > 1 else stem for stem, w in zip(stems, whole)]
    twice = next((path for path, name in zip(paths, names) if names.count(name) > 1), None)
    if twice:
        raise UserError(f'config {twice} is given twice; copy it under another name to do that')
    return names


def prepare(paths: list[str], out: Path, options: dict | None = None) -> list[Candidate]:
    """Read the configs, see that their data are there, put copies into ``out``.

    Args:
        paths: Config files.
        out: Folder of the comparison; it may hold an earlier part of it.
        options: Settings that override those of every config.

    Raises:
        UserError: if one cannot be read or lacks files, or is not the one that ``out`` has.
    """
    found = []
    for path, name in zip(paths, names_of(paths)):
        args = argparse.Namespace(
            config=path, cfg_options=options, work_dir=str(out / name), launcher='none'
        )
        cfg = load_config(args)
        check_files(cfg, [f'{run}_dataloader' for run in RUNS])
        found.append(Candidate(name, out / name / f'{name}.py', cfg))
    for config in found:  # nothing is written before all are known to be good
        if not config.path.exists():
            write(config.path, config.cfg.pretty_text)
        elif config.path.read_text('utf-8') != config.cfg.pretty_text:
            raise UserError(
                f'{config.name} is not the config that {out} was begun with; delete '
                f'{config.path.parent} or choose another --out'
            )
    return found


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all, whenever the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    part.write_text(text, 'utf-8')
    os.replace(part, path)


def runs_of(configs: list[Candidate], seeds: list[int]) -> list[Run]:
    """All runs, seed by seed, so that a part of them is a comparison already."""
    return [Run(c, seed, c.path.parent / f'seed{seed}') for seed in seeds for c in configs]


class Slot(NamedTuple):
    """A place where one run at a time can go: a GPU, or a share of the cores."""

    environment: dict


def slots_of(jobs: int, gpus: list[str]) -> list[Slot]:
    """One slot a GPU, else one a job; processes on the CPU share its cores evenly."""
    if gpus:
        return [Slot({'CUDA_VISIBLE_DEVICES': gpu}) for gpu in gpus]
    threads = os.environ.get('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // jobs)))
    return [Slot({'OMP_NUM_THREADS': threads})] * jobs


class Work:
    """Brings runs to their end through the tools.

    Args:
        tools: Folder of ``train.py`` and ``test.py``.
        amp: Whether to train in mixed precision.
    """

    def __init__(self, tools: Path, amp: bool = False) -> None:
        self.tools, self.amp = tools, amp
        self.stop = threading.Event()

    def all(self, runs: list[Run], slots: list[Slot]) -> dict[Run, str]:
        """Do all runs that are not done; a line says how far they are.

        Returns:
            What went wrong with those that failed, in one line each.
        """
        free: queue.SimpleQueue = queue.SimpleQueue()
        for slot in slots:
            free.put(slot)
        failed: dict[Run, str] = {}
        left = [run for run in runs if not run.metrics.exists()]
        progress = Progress(runs, failed)
        with ThreadPoolExecutor(len(slots)) as pool:
            going = {pool.submit(self._one, run, free): run for run in left}
            try:
                while going:
                    ended, _ = wait(going, timeout=1, return_when=FIRST_COMPLETED)
                    for future in ended:
                        run, error = going.pop(future), future.result()
                        if error:
                            failed[run] = error
                            progress.say(f'failed: {run.label}: {error} ({run.folder}/log.txt)')
                    progress.show(bool(ended))
            finally:
                self.stop.set()  # only an interrupt leaves something to stop
                for future in going:
                    future.cancel()
        progress.end()
        return failed

    def _one(self, run: Run, free: queue.SimpleQueue) -> str | None:
        slot = free.get()
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            with self._held(run) as lock:
                # What held it before may have been the same run, started by a killed process.
                return None if run.metrics.exists() else self._train_and_test(run, slot, lock)
        except (UserError, OSError) as error:
            return str(error)
        finally:
            free.put(slot)

    @contextlib.contextmanager
    def _held(self, run: Run) -> Iterator[int]:
        """A lock on a run, which its processes inherit.

        They live on when this one is killed, and so does the lock: nobody else trains there
        before they end.
        """
        import fcntl  # not on Windows

        with open(run.folder / 'lock', 'w') as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if self.stop.wait(0.2):
                        raise UserError('interrupted') from None
            yield file.fileno()

    def _train_and_test(self, run: Run, slot: Slot, lock: int) -> str | None:
        trained = run.folder / 'trained'
        if not trained.exists():
            drop_what_cannot_be_resumed(run.folder)
            error = self._process(
                run, slot, lock, 'train.py', run.config.path, '--work-dir', run.folder, '--resume',
                *(['--amp'] if self.amp else []),
                '--cfg-options', f'randomness.seed={run.seed}',
            )  # fmt: skip
            if error:
                return error
            trained.touch()
        checkpoint = last_checkpoint(str(run.folder))
        if checkpoint is None:
            return 'the training left no checkpoint; the config needs default_hooks.checkpoint'
        result = run.folder / 'test' / 'metrics.json'
        error = self._process(
            run, slot, lock, 'test.py', run.config.path, checkpoint, '--work-dir', result.parent,
            '--out', result,
        )  # fmt: skip
        if error:
            return error
        os.replace(result, run.metrics)
        return None

    def _process(self, run: Run, slot: Slot, lock: int, tool: str, *arguments) -> str | None:
        """Run a tool to its end; what it says last if it fails."""
        if self.stop.is_set():
            return 'interrupted'
        log = run.folder / 'log.txt'
        with log.open('ab') as file:
            begin = file.tell()
            process = subprocess.Popen(
                [sys.executable, str(self.tools / tool), *map(str, arguments)],
                env={**environment(), **slot.environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=[lock],
            )
            while process.poll() is None:
                if self.stop.wait(0.1):
                    process.terminate()
                    process.wait()
        if process.returncode == 0:
            return None
        with log.open('rb') as file:
            file.seek(begin)
            lines = [ln.strip() for ln in file.read().decode('utf-8', 'replace').splitlines()]
        said = [line for line in lines if line.startswith('error: ')] or [ln for ln in lines if ln]
        return said[-1] if said else f'{tool} ended with {process.returncode}'


def environment() -> dict[str, str]:
    """The environment of the processes: they import the same scsa as this one."""
    paths = [str(PACKAGE), os.environ.get('PYTHONPATH', '')]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in paths if path))


def drop_what_cannot_be_resumed(folder: Path) -> None:
    """Begin a training anew whose last checkpoint is gone.

    mmengine deletes the oldest checkpoint before it writes the next: where only one is kept, a
    process that was killed between the two has left none.
    """
    try:
        last_checkpoint(str(folder))
    except UserError:
        for path in folder.iterdir():
            if path.name not in ('lock', 'log.txt'):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


class Progress:
    """One line that says what is done, what goes on and how long the rest will take."""

    def __init__(self, runs: list[Run], failed: dict[Run, str]) -> None:
        self.runs, self.failed = runs, failed
        self.terminal = sys.stderr.isatty()
        self.started, self.first = time.monotonic(), self._shares()
        self.show(True)

    def _shares(self) -> dict[Run, float]:
        return {run: 1.0 if run in self.failed else share_done(run) for run in self.runs}

    def show(self, changed: bool) -> None:
        """Renew the line; where there is no terminal, print one when a run has ended."""
        if self.terminal or changed:
            print(CLEAR * self.terminal + self.line(), end='' if self.terminal else '\n',
                  file=sys.stderr, flush=True)  # fmt: skip

    def line(self) -> str:
        """The text of the line."""
        shares = self._shares()
        done = sum(run.metrics.exists() for run in self.runs)
        seconds = time.monotonic() - self.started
        left = time_left(sum(shares.values()) - sum(self.first.values()),
                         len(shares) - sum(shares.values()), seconds)  # fmt: skip
        going = [f'{run.label} {s:.0%}' for run, s in shares.items() if 0 < s < 1]
        parts = [f'{done} of {len(self.runs)} runs done']
        parts += [f'{len(self.failed)} failed'] if self.failed else []
        return ', '.join(parts) + ''.join(f'; {text}' for text in [*going[:3], left])

    def say(self, text: str) -> None:
        """Print a line of its own."""
        print(CLEAR * self.terminal + text, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.terminal:
            print(file=sys.stderr)


def time_left(made: float, rest: float, seconds: float) -> str:
    """How long the rest takes, if it goes on as what was made in so many seconds."""
    if rest <= 0:
        return '0:00:00 left'
    if made <= 0:
        return 'time left not known yet'
    left = int(rest / made * seconds)
    return f'{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left'


def share_done(run: Run) -> float:
    """How far a run is, from 0 to 1, by the last line of its log."""
    if run.metrics.exists():
        return 1.0
    logs = sorted(run.folder.glob('*/vis_data/scalars.json'))
    cfg = run.config.cfg.train_cfg
    for log in reversed([log for log in logs if log.parts[-3] != 'test']):
        with log.open('rb') as file:
            file.seek(max(0, log.stat().st_size - 4096))
            rows = list(parsed(file.read().decode('utf-8', 'replace').splitlines()))
        if not rows:
            continue
        row = rows[-1]
        if cfg.get('max_iters'):
            return min(0.99, row['step'] / cfg.max_iters)
        epochs = row['epoch'] - 1 if 'epoch' in row else row['step']
        return min(0.99, epochs / cfg.get('max_epochs', 1))
    return 0.0

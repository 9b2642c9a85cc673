"""What the data set tests share: small files written in the original formats."""

from __future__ import annotations

import io
import json
import os
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from PIL import Image

ROOT = Path(__file__).parents[2]


class Finished(NamedTuple):
    """What a tool leaves behind."""

    returncode: int
    stdout: str
    stderr: str


def run_tool(name: str, *arguments: object, **environment: str) -> Finished:
    """Runs a converter as its command line does, but without the seconds that imports take.

    So it does any other tool, given as `FOLDER/NAME`.
    """
    path = str(ROOT / 'tools/dataset_converters' / f'{name}.py')
    if '/' in name:
        path = str(ROOT / 'tools' / f'{name}.py')
    out, err, code = io.StringIO(), io.StringIO(), 0
    with mock.patch.object(sys, 'argv', [path, *map(str, arguments)]), mock.patch.dict(
        os.environ, environment
    ), redirect_stdout(out), redirect_stderr(err):
        try:
            runpy.run_path(path, run_name='__main__')
        except SystemExit as stop:
            code = stop.code
    return Finished(code, out.getvalue(), err.getvalue())


def picture(path: Path, width: int = 100, height: int = 80) -> Path:
    """Saves an empty image in the format that its suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('L', (width, height)).save(path)
    return path


def write(path: Path, text: str) -> Path:
    """Writes a text file exactly as given, line ends included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode('utf-8'))
    return path


def boxes(file: Path) -> list[tuple]:
    """Returns (file name, class, box, iscrowd) of every annotation."""
    coco = json.loads(file.read_text())
    names = {image['id']: image['file_name'] for image in coco['images']}
    labels = {category['id']: category['name'] for category in coco['categories']}
    return [
        (names[a['image_id']], labels[a['category_id']], a['bbox'], a['iscrowd'])
        for a in coco['annotations']
    ]


def counts(summary: str) -> dict[str, int]:
    """Reads a summary table back: row name to number; boxes win over images."""
    rows = (line.rsplit(maxsplit=1) for line in summary.splitlines())
    return {
        row[0].strip(): int(row[1].replace(',', ''))
        for row in rows
        if len(row) == 2 and row[1].replace(',', '').isdigit()
    }

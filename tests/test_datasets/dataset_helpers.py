"""What the data set tests share: small files written in the original formats."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]


def run_tool(name: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """Runs a converter as the user does, in a process of its own."""
    command = [sys.executable, ROOT / 'tools/dataset_converters' / f'{name}.py', *arguments]
    return subprocess.run(
        list(map(str, command)),
        env={**os.environ, 'PYTHONPATH': str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


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

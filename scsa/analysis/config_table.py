"""The table of configs in the docs, from the files.

A page says where its table goes and what is in it::

    <!-- configs: detection/*.py quickstart/*rcnn*.py -->
    …
    <!-- end of configs -->
"""

from __future__ import annotations

import re
from pathlib import Path

from mmengine.config import Config
from tqdm import tqdm

from ..cli import UserError, existing
from .complexity import build, count_flops, count_parameters, standard_input

BLOCK = re.compile(r'(<!-- configs: (.+?) -->\n).*?(<!-- end of configs -->)', re.S)
HEADER = '| config | parameters | input | GFLOPs |\n|---|---:|---:|---:|\n'


def row(configs: Path, path: Path) -> str:
    """The line of one config: its name, parameters, standard input, cost."""
    cfg = Config.fromfile(path)
    model = build(cfg)
    height, width = standard_input(cfg)
    flops = count_flops(model, height, width) / 1e9
    name = path.relative_to(configs).as_posix()
    parameters = f'{count_parameters(model):,}'
    return (
        f'| [{path.stem}](../configs/{name}) | {parameters} | {height} × {width} | {flops:.1f} |\n'
    )


def renew(page: Path) -> None:
    """Write the table of a page anew.

    Args:
        page: A Markdown file two folders below which `configs/` lies, as `docs/…` in a checkout.

    Raises:
        UserError: if the page is not there or says nowhere that a table goes into it.
    """
    text = existing(page, 'page', 'give one of docs/').read_text(encoding='utf-8')
    block = BLOCK.search(text)
    if block is None:
        raise UserError(
            f'{page} has no table; it goes between <!-- configs: PATTERNS --> and an end'
        )
    configs = page.resolve().parents[1] / 'configs'
    paths = [path for pattern in block[2].split() for path in sorted(configs.glob(pattern))]
    rows = [row(configs, path) for path in tqdm(paths, desc=page.name, disable=None)]
    table = block[1] + HEADER + ''.join(rows) + block[3]
    page.write_text(text[: block.start()] + table + text[block.end() :], encoding='utf-8')
    print(f'{page}: {len(rows)} configs')


def documented(page: Path) -> dict[str, int]:
    """Names (`detection/….py`) and parameters that the table of a page gives."""
    rows = re.findall(r'\| \[.+?\]\(\.\./configs/(.+?)\) \| ([\d,]+) \|', page.read_text('utf-8'))
    return {name: int(parameters.replace(',', '')) for name, parameters in rows}

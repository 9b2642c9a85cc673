"""Triton's own compiler accepts the kernels: the interpreter takes more than it does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('triton', minversion='3.3')

SCRIPT = Path(__file__).with_name('compile_kernels.py')
ROOT = Path(__file__).parents[2]


SPILLS = 64  # bytes, at most
# Bytes that a load of the map has at least, by the width of a contiguous fp16 map.
CONTIGUOUS = {56: 8, 28: 8, 14: 4}


def compiled(tmp_path, *arguments):
    found = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={
            **os.environ,
            'PYTHONPATH': str(ROOT),
            'TRITON_INTERPRET': '0',
            'TRITON_CACHE_DIR': str(tmp_path),
        },
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    # Before that, mmpretrain says what it misses in mmcv-lite.
    return [json.loads(line) for line in found.stdout.splitlines() if line.startswith('{')]


@pytest.mark.long
@pytest.mark.parametrize(
    'layout', ['contiguous', pytest.param('channels_last', marks=pytest.mark.slow)]
)
def test_a_training_step_of_a_resnet_as_a_gpu_compiles_it(layout, tmp_path):
    *rows, summary = compiled(
        tmp_path, '--shapes', 'resnet', '--types', 'float16', '--layouts', layout
    )
    assert (summary['launches'], summary['failures']) == (4 * (6 + 4), 0)
    kinds = {(row['kernel'], row['BC'], row['BR'], row['BW'], row['ALIGN']) for row in rows}
    assert len(kinds) <= 24
    for row in rows:
        assert row['spills'] <= SPILLS and row['shared'] <= 48 * 1024
        # A load of strips or gates has 4 bytes; those of the map are the widest.
        least = 8 if layout == 'channels_last' else CONTIGUOUS.get(row['shape'][3], 2)
        assert max(row['loads']) >= least, row
        assert least == 2 or 2 not in row['loads'], row


@pytest.mark.slow
@pytest.mark.parametrize('capability', [75, 80, 90])
def test_every_shape_type_and_layout(capability, tmp_path):
    *rows, summary = compiled(tmp_path, '--capabilities', str(capability))
    assert summary['launches'] > 500 and summary['failures'] == 0
    assert max(row['spills'] for row in rows) <= SPILLS

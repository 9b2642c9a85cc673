"""Triton's own compiler accepts the kernels: the interpreter takes more than it does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('triton', minversion='3.4')  # whose compiler is called in this way

SCRIPT = Path(__file__).with_name('compile_kernels.py')
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(('options', 'devices'), [('plain', 2), ('every option', 3)])
def test_every_launch_compiles(options, devices, tmp_path):
    found = subprocess.run(
        [sys.executable, str(SCRIPT), options],
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
    assert found.stdout.endswith(devices * '13 launches compiled\n')
    assert found.stdout.count('launches compiled') == devices

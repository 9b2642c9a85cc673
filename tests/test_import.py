"""`import scsa` with torch alone, and with an OpenMMLab that is broken."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(code, *paths):
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={'PYTHONPATH': ':'.join([*map(str, paths), str(ROOT)]), 'PATH': '/usr/bin:/bin'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_torch_alone_is_enough_and_nothing_else_is_imported():
    done = run(
        'import sys\n'
        'for name in ("mmengine", "mmcv", "mmpretrain", "mmdet", "mmseg", "einops"):\n'
        '    sys.modules[name] = None  # not installed, for import and find_spec alike\n'
        'import torch\n'
        'before = set(sys.modules)\n'
        'from scsa import PCSA, SCSA, SMSA, __version__\n'
        'assert SCSA(64)(torch.zeros(1, 64, 9, 9)).shape == (1, 64, 9, 9)\n'
        'new = {name.split(".")[0] for name in set(sys.modules) - before}\n'
        'print(*sorted(new - set(sys.stdlib_module_names if sys.version_info >= (3, 10) else new)))'
    )
    assert set(done.stdout.split()) <= {'scsa', 'torch'}
    assert done.stderr == '', 'silently'


def test_a_broken_openmmlab_is_named_once_and_the_attention_works(tmp_path):
    (tmp_path / 'mmengine.py').write_text("raise AssertionError('MMCV==9 is incompatible')\n")
    done = run(
        'import torch\nfrom scsa import SCSA\nSCSA(64)(torch.zeros(1, 64, 9, 9))',
        tmp_path,
    )
    assert done.stderr.count('UserWarning') == 1
    assert 'not registered with mmengine' in done.stderr
    assert 'AssertionError: MMCV==9 is incompatible' in done.stderr

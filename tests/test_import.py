"""`import scsa` with torch alone, with an OpenMMLab that is broken, with versions that clash."""

import subprocess
import sys
from pathlib import Path

import pytest

from scsa.openmmlab.versions import troubles

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


def test_openmmlab_is_left_alone_if_asked():
    done = run(
        'import os, sys\n'
        'os.environ["SCSA_REGISTER"] = "0"\n'
        'import scsa, scsa.datasets.digits, scsa.analysis.quickstart\n'
        'print(*{"mmengine", "mmcv", "mmpretrain"} & set(sys.modules))'
    )
    assert done.stdout == '\n'


def test_a_broken_openmmlab_is_named_once_and_the_attention_works(tmp_path):
    (tmp_path / 'mmengine.py').write_text("raise AssertionError('MMCV==9 is incompatible')\n")
    done = run(
        'import torch\nfrom scsa import SCSA\nSCSA(64)(torch.zeros(1, 64, 9, 9))',
        tmp_path,
    )
    assert done.stderr.count('UserWarning') == 1
    assert 'not registered with mmengine' in done.stderr
    assert 'AssertionError: MMCV==9 is incompatible' in done.stderr


PAPER = {
    **dict(torch='2.1.1', numpy='1.26.4', mmengine='0.10.7', mmcv='2.1.0', mmpretrain='1.2.0'),
    **dict(mmdet='3.3.0', mmsegmentation='1.2.2'),
}
MODERN = {
    **{'torch': '2.13.0+cpu', 'numpy': '2.2.6', 'onedl-mmengine': '0.10.12'},
    **{'onedl-mmcv': '2.3.6', 'onedl-mmpretrain': '1.3.6', 'onedl-mmdetection': '3.5.1'},
}


@pytest.mark.parametrize('versions', [PAPER, MODERN])
def test_our_lanes_are_without_trouble(versions):
    assert troubles(versions, pkg_resources='mmengine' in versions) == []


@pytest.mark.parametrize(
    ('versions', 'said', 'mend'),
    [
        ({**PAPER, 'torch': '2.6.0'}, 'cannot load its own checkpoints', 'onedl-mmengine'),
        ({**PAPER, 'numpy': '2.0.0'}, 'cannot take arrays of numpy 2.0.0', 'numpy<2'),
        ({**PAPER, 'mmcv': '2.2.0', 'mmdet': '3.3.0'}, 'mmdet 3.3.0 refuses mmcv', 'mmcv<2.2'),
        ({**PAPER, 'mmcv-lite': '2.1.0'}, 'mmcv and mmcv-lite are both', 'pip uninstall'),
        ({**MODERN, 'mmcv-lite': '2.2.0'}, 'mmcv-lite and onedl-mmcv are both', 'pip uninstall'),
        ({**MODERN, 'mmdet': '3.3.0'}, 'mmdet and onedl-mmdetection are both', 'pip uninstall'),
    ],
)
def test_versions_that_clash_are_named_with_the_mend(versions, said, mend):
    found = [trouble for trouble in troubles(versions, pkg_resources=True) if said in trouble]
    assert len(found) == 1 and mend in found[0]


def test_releases_to_come_are_not_accused_of_what_they_may_have_mended():
    later = {**PAPER, 'mmengine': '0.10.8', 'mmdet': '3.4.0', 'mmsegmentation': '1.3.0'}
    assert troubles({**later, 'torch': '2.6.0', 'mmcv': '2.2.0'}, pkg_resources=False) == []


def test_a_setuptools_without_pkg_resources_is_named_where_mmengine_needs_it():
    (trouble,) = troubles(PAPER, pkg_resources=False)
    assert 'setuptools<81' in trouble


def site(folder, **versions):
    """Makes a folder of a path in which distributions of these versions seem installed."""
    for name, version in versions.items():
        info = folder / f'{name}-{version}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(
            f'Metadata-Version: 2.1\nName: {name.replace("_", "-")}\nVersion: {version}\n'
        )
    return folder


def test_import_warns_where_mmengine_is(tmp_path):
    (tmp_path / 'mmengine.py').write_text('raise ImportError')
    clash = site(tmp_path, mmengine='0.10.7', onedl_mmengine='0.10.12', torch='2.6.0')
    done = run('import warnings, scsa', clash)
    assert 'mmengine and onedl-mmengine are both installed' in done.stderr
    assert 'cannot load its own checkpoints with torch 2.6.0' in done.stderr
    assert '<string>:1: UserWarning: mmengine' in done.stderr, 'said of the line that imports scsa'


def test_import_with_torch_alone_is_silent_whatever_the_versions(tmp_path):
    clash = site(tmp_path, torch='2.1.1', numpy='2.4.6')
    hidden = 'import sys, torch; sys.modules["mmengine"] = None; import scsa'
    assert run(hidden, clash).stderr == ''

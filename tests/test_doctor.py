"""The doctor names cause and mend in five environments that are staged, each in its own process."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from scsa import backend, selftest
from scsa.doctor import TOOLS, Doctor

ROOT = Path(__file__).parents[1]
MM = ('mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'mmseg')
STAGE = """
import runpy, sys
from importlib import metadata
version = metadata.version
def staged(name):
    if name in {absent!r}:
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = staged
sys.modules.update(dict.fromkeys({hidden!r}))  # not installed, for import and find_spec alike
sys.argv[1:] = ['doctor', *{configs!r}]
runpy.run_module('scsa', run_name='__main__')
"""


@pytest.fixture
def site(tmp_path):
    """Writes packages, and versions that seem installed, into a folder of the path."""

    def write(versions=(), **packages):
        for name, version in dict(versions).items():
            info = tmp_path / f'{name.replace("-", "_")}-{version}.dist-info'
            info.mkdir()
            text = f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
            (info / 'METADATA').write_text(text)
        for name, text in packages.items():
            folder = tmp_path.joinpath(*name.split('__'))
            folder.mkdir()
            (folder / '__init__.py').write_text(text)
        return tmp_path

    return write


def doctor(*options, path=()):
    measured = {key: value for key, value in os.environ.items() if key.startswith('COVERAGE_')}
    folders = ':'.join([*map(str, path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *options],
        env={'PYTHONPATH': folders, 'PATH': '/usr/bin:/bin', **measured},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert 'Traceback' not in done.stderr, done.stderr
    return done.returncode, done.stdout


def staged(path, hidden=MM, absent=(), configs=()):
    code = STAGE.format(hidden=list(hidden), absent=list(absent), configs=list(configs))
    return doctor('-c', code, path=path)


def troubles(text):
    return [line for line in text.splitlines() if line.startswith('trouble: ')]


def test_no_torch():
    code, text = doctor('-S', '-m', 'scsa', 'doctor')  # without site-packages
    assert code == 1
    (trouble,) = troubles(text)
    assert 'torch is not installed: pip install torch' in trouble and '`make env`' in trouble


def test_mmcv_without_its_operators(site):
    # As mmcv's own loader of its extension does it.
    ops = "import importlib\nimportlib.import_module('mmcv._ext')\n"
    path = site({'mmcv': '2.1.0'}, mmcv='', mmcv__ops=ops)
    code, text = staged([path], [n for n in MM if n != 'mmcv'], ['mmcv-lite', 'onedl-mmcv'])
    assert code == 1
    (trouble,) = [line for line in troubles(text) if 'compiled operators' in line]
    assert 'mmcv 2.1.0 was built without its compiled operators' in trouble
    assert '`make env-full`' in trouble and 'MMCV_WITH_OPS=1' in trouble


@pytest.mark.skipif(not (find_spec('mmengine') and find_spec('mmdet')), reason='reads a config')
def test_mmcv_lite_with_a_detection_config(site):
    config = 'configs/quickstart/faster-rcnn_r18_scenes_scsa.py'
    hidden, absent = ('mmcv.ops', 'mmcv._ext'), ('mmcv', 'onedl-mmcv')
    code, text = staged([site({'mmcv-lite': '2.1.0'})], hidden, absent, [config])
    assert code == 1
    (trouble,) = [line for line in troubles(text) if config in line]
    assert 'is one of mmdet, which needs more' in trouble
    assert 'without its compiled operators: `make env-full`' in trouble
    assert 'mmcv-lite, without compiled operators: enough for classification' in text
    (line,) = [line for line in text.splitlines() if 'classification  ' in line]
    assert line.endswith('ready')


def test_numpy_2_beside_torch_2_1(site):
    code, text = staged([site({'torch': '2.1.1', 'numpy': '2.0.0'})])
    assert code == 1
    (trouble,) = troubles(text)
    assert 'torch 2.1.1 cannot take arrays of numpy 2.0.0' in trouble and '"numpy<2"' in trouble


def test_mmcv_2_2_beside_mmdet(site):
    path = site(
        {'mmcv': '2.2.0', 'mmdet': '3.3.0'},
        mmcv="__version__ = '2.2.0'\n",
        mmcv__ops='',
        mmdet='import mmcv\n'
        "assert mmcv.__version__ < '2.2.0', 'MMCV==2.2.0 is used but incompatible'\n",
    )
    hidden = ('mmengine', 'mmpretrain', 'mmseg')
    absent = ('mmcv-lite', 'onedl-mmcv', 'onedl-mmdetection', 'mmsegmentation')
    code, text = staged([path], hidden, absent)
    assert code == 1
    assert any('mmdet 3.3.0 refuses mmcv 2.2.0: use mmcv<2.2' in line for line in troubles(text))
    assert any('mmdet cannot be imported: AssertionError: MMCV==2.2.0' in t for t in troubles(text))


def test_torch_alone_is_no_trouble(site):
    code, text = staged([], absent=['mmcv', 'mmcv-lite', 'onedl-mmcv', 'mmengine', 'torch'])
    assert (code, troubles(text)) == (0, []), text
    assert 'cpu: eager (triton needs ' in text
    assert 'mmengine is not installed: `make env`' in text


def test_a_config_that_is_not_there():
    found = Doctor()
    found.check_config('configs/none.py')
    assert found.troubles == [
        'config not found: configs/none.py; configs/ holds those of this project'
    ]


def test_the_numbers_kept_are_those_of_the_published_formulation():
    with backend('reference'):
        found = selftest.profiles(selftest.build(), 'cpu', torch.float64)
    for values, kept in zip(found, (selftest.OUTPUT, selftest.GRADIENT)):
        torch.testing.assert_close(values, torch.tensor(kept).double(), rtol=1e-6, atol=1e-9)


def test_the_self_test_sees_a_wrong_path(monkeypatch):
    assert selftest.compare('eager', 'cpu') < selftest.TOLERANCE
    build = selftest.build

    def swapped():
        module = build()
        module.norm_h, module.norm_w = module.norm_w, module.norm_h
        return module

    monkeypatch.setattr(selftest, 'build', swapped)
    examined = Doctor()
    examined.self_test('cpu')
    assert any('path eager gives wrong numbers on cpu' in line for line in examined.troubles)


def test_an_unknown_path_is_a_trouble(monkeypatch):
    monkeypatch.setenv('SCSA_BACKEND', 'fast')
    examined = Doctor()
    examined.path(torch, 'cpu')
    assert examined.troubles == [
        'SCSA_BACKEND=fast is unknown; use one of auto, eager, triton, reference'
    ]


def test_every_folder_of_tools_is_spoken_of():
    folders = {f'{path.name}/' for path in (ROOT / 'tools').iterdir() if path.is_dir()}
    folders -= {'dev/', '__pycache__/'}
    assert folders <= set(TOOLS)
    files = {path.name for path in (ROOT / 'tools').glob('*.py')}
    assert all(any(file in name for name in TOOLS) for file in files)

"""make gpu-check, as far as it goes without a GPU and a network."""

import json
import os
import runpy
import sys
import zipfile

import pytest
import torch
from tools_helpers import ROOT, refusal, run_tool

from scsa.cli import UserError

CHECK = 'tools/dev/gpu_check.py'
MOBILE = 'imagenet-mobilenet-v2_1xb96_in1k_scsa'
ON_CPU = ('--device', 'cpu', '--tiny')


@pytest.fixture(scope='module')
def tool():
    return runpy.run_path(str(ROOT / CHECK))


@pytest.fixture
def wheels(tmp_path):
    """A folder with one package that is missing here and one that is not."""
    folder = tmp_path / 'wheels'
    folder.mkdir()
    for name in ('not_here', 'numpy'):
        with zipfile.ZipFile(folder / f'{name}-9.9-py3-none-any.whl', 'w') as wheel:
            info = f'{name}-9.9.dist-info'
            wheel.writestr(f'{name}/__init__.py', '')
            wheel.writestr(f'{info}/METADATA', f'Metadata-Version: 2.1\nName: {name}\nVersion: 9.9')
            tag = 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any'
            wheel.writestr(f'{info}/WHEEL', tag)
            wheel.writestr(f'{info}/RECORD', '')
    return folder


def test_a_training_step_is_measured(tmp_path):
    config, out = 'configs/classification/mobilenet-v2_1xb96_in1k_scsa.py', tmp_path / 'step.json'
    small = ('--device', 'cpu', '--amp', '--batch', 2, '--size', 64, '--steps', 1)
    run_tool('tools/analysis/training_step.py', config, *small, '--out', out)
    figures = json.loads(out.read_text())
    assert (figures['precision'], figures['batch'], figures['size']) == ('float32', 2, 64)
    assert figures['images_per_second'] > 0 and figures['loss'] > 0


@pytest.mark.slow
def test_steps_become_rows(digits, tmp_path):
    (tmp_path / 'digits').symlink_to(digits)
    seen = run_tool(CHECK, *ON_CPU, '--out', tmp_path, '--only', 'digits-*', MOBILE, 'bench-module')
    assert f'{MOBILE} ... ' in seen
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['machine']['torch'] == torch.__version__
    training, step, bench = results['rows']
    assert training['step'] == 'digits-fp32' and 0 <= training['top1'] <= 100
    assert step['batch'] == 2 and step['size'] == 224 and step['images_per_second'] > 0
    assert len(bench['rows']) == 6
    table = (tmp_path / 'table.md').read_text()
    assert f'| {MOBILE} | ' in table and 'geometric mean' in table


@pytest.mark.parametrize(
    ('code', 'error'),
    [
        ("print('fine'); raise RuntimeError('no such kernel')", 'RuntimeError: no such kernel'),
        ('import time; time.sleep(60)', 'not done after 2 seconds'),
        ('pass', "KeyError: 'figure'"),
    ],
)
def test_a_failed_step_is_a_row_with_its_error(tool, tmp_path, code, error):
    def read():
        return dict(found={}['figure'])

    args = type('Args', (), dict(out=tmp_path, limit=2))
    row = tool['execute'](tool['Step']('broken', [sys.executable, '-c', code], read), None, args)
    assert row['error'] == error
    assert f'| broken | FAILED: {error} |' in tool['markdown']({}, [row])


def test_what_a_step_complains_of_stays_out_of_its_summary(tool, tmp_path):
    code = "import sys; print('a figure'); print('noise', file=sys.stderr)"
    args = type('Args', (), dict(out=tmp_path, limit=60))
    row = tool['execute'](tool['Step']('noisy', [sys.executable, '-c', code]), None, args)
    assert 'error' not in row
    assert (tmp_path / 'noisy.log').read_text() == 'a figure\n'
    assert 'noise\n' in (tmp_path / 'noisy.err').read_text()


def test_a_failed_step_fails_the_run_and_not_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [CHECK, *ON_CPU, '--out', str(tmp_path)])
    tool = runpy.run_path(str(ROOT / CHECK))
    steps = [tool['Step'](str(code), [sys.executable, '-c', f'exit({code})']) for code in (3, 0)]
    replaced = dict.fromkeys(('digits', 'imagenet', 'benchmarks'), lambda args: [])
    replaced.update(
        tests=lambda args: steps,
        prepare=lambda args: None,
        facts=lambda environment, args: {},
        verdict=lambda row: row.get('error', 'done'),
    )
    tool['main'].__globals__.update(replaced)
    with pytest.raises(SystemExit) as stop:
        tool['main']()
    assert stop.value.code == 1
    assert '3 ... it ended without a word\n0 ... done\n' in capsys.readouterr().out


def test_training_that_does_not_learn_is_no_success(tool, tmp_path):
    log = tmp_path / 'now' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('{"loss": 2.3, "memory": 512}\n{"accuracy/top1": 11.0}\n')
    assert tool['last_scalars'](tmp_path, 0)['peak_bytes'] == 2**29
    with pytest.raises(tool['StepError'], match='the least'):
        tool['last_scalars'](tmp_path, 90)


def test_rows_are_kept_of_the_same_machine_only(tool, tmp_path):
    path = tmp_path / 'results.json'
    assert tool['earlier'](path, {}) == []
    path.write_text(json.dumps(dict(machine=dict(torch='2.11', date='then'), rows=['a row'])))
    assert tool['earlier'](path, dict(torch='2.11', date='now')) == ['a row']
    assert tool['earlier'](path, dict(torch='2.12', date='now')) == []


def test_every_imagenet_config_and_benchmark_is_a_step(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [CHECK, '--list'])
    runpy.run_path(str(ROOT / CHECK), run_name='__main__')
    names = capsys.readouterr().out.split()
    for config in (ROOT / 'configs/classification').glob('*_in1k*.py'):
        assert f'imagenet-{config.stem}' in names
    assert {
        'tests',
        'digits-fp16',
        'digits-bf16',
        'digits-fp16-triton',
        'bench-bars',
        'bench-full',
    } <= set(names)


def test_why_mmpretrain_cannot_be_imported(tool, tmp_path):
    (tmp_path / 'mmpretrain.py').write_text("raise ImportError('OpenCV is missing')")
    environment = dict(os.environ, PYTHONPATH=str(tmp_path))
    with pytest.raises(UserError, match=r'\(ImportError: OpenCV is missing\)'):
        tool['facts'](environment, type('Args', (), dict(device='cpu')))


def test_the_table_names_no_path_of_the_machine(tool):
    args = type('Args', (), dict(tiny=True, device='cpu', out=ROOT / 'work_dirs/gpu_check'))
    (step,) = tool['benchmarks'](args)
    assert step.command[-1].endswith(' --out work_dirs/gpu_check/module')


def test_what_is_here_already_is_not_installed_again(tool, wheels, tmp_path):
    site = tmp_path / 'site'
    assert tool['gpu_wheels'].install(wheels, site) == ['not_here-9.9-py3-none-any.whl']
    assert (site / 'not_here').is_dir() and not (site / 'numpy').exists()


def test_all_builds_of_opencv_are_one(tool):
    name = tool['gpu_wheels']._distribution
    assert name('opencv_python_headless') == name('opencv-contrib-python') != name('openai')


def test_refusals(monkeypatch, capsys, tmp_path):
    def refused(*arguments):
        return refusal(monkeypatch, capsys, CHECK, '--out', tmp_path, *arguments)

    assert 'no such step; --list shows them' in refused('--only', 'none')
    assert 'make gpu-wheels' in refused('--wheels', tmp_path / 'none')


@pytest.mark.skipif(torch.cuda.is_available(), reason='here is a GPU')
def test_without_a_gpu(monkeypatch, capsys, tmp_path):
    (tmp_path / 'digits').mkdir()
    line = refusal(monkeypatch, capsys, CHECK, '--out', tmp_path, '--only', 'tests')
    assert line == 'error: PyTorch finds no GPU; --device cpu --tiny tries the tool without one'

"""The comparison without training: statistics, tables, plots, and the care for runs."""

from __future__ import annotations

import argparse
import base64
import fcntl
import json
import runpy
import shutil
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip('mmengine')
pytest.importorskip('scipy')
pytest.importorskip('matplotlib')
pytest.importorskip('mmpretrain', reason='the tools drive OpenMMLab')
from mmengine.config import Config
from tools_helpers import ROOT

from scsa.analysis import compare, compare_costs, compare_page, compare_table
from scsa.analysis.compare import Candidate, Run, Work, runs_of, slots_of
from scsa.analysis.compare_table import choose_metric, holm, paired, table_rows
from scsa.cli import UserError

# Stand-ins of the tools: a checkpoint and an accuracy that the config's name and the seed fix.
TRAIN = """
import json, pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index('--work-dir') + 1])
name, seed = pathlib.Path(sys.argv[1]).stem, int(sys.argv[-1].split('=')[1])
if name == 'broken':
    sys.exit('error: no data; get some')
log = out / 'now/vis_data/scalars.json'
log.parent.mkdir(parents=True, exist_ok=True)
rows = [dict(loss=1 / (e + seed), epoch=e, step=e) for e in (1, 2)]
rows += [{'accuracy/top1': 50 + e, 'step': e} for e in (1, 2)]
log.write_text(''.join(json.dumps(row) + '\\n' for row in rows) + '{"loss": 0.')
(out / 'epoch_2.pth').write_text(f'{name} {seed}')
(out / 'last_checkpoint').write_text('epoch_2.pth')
"""
TEST = """
import json, pathlib, sys
name, seed = pathlib.Path(sys.argv[2]).read_text().split()
out = pathlib.Path(sys.argv[-1])
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text(json.dumps({'accuracy/top1': 60 + int(seed) + 10 * (name == 'b'), 'names': []}))
"""


@pytest.fixture
def tools(tmp_path):
    folder = tmp_path / 'tools'
    folder.mkdir()
    (folder / 'train.py').write_text(TRAIN)
    (folder / 'test.py').write_text(TEST)
    return folder


def candidates(out, *names):
    cfg = Config(dict(train_cfg=dict(by_epoch=True, max_epochs=2)))
    return [Candidate(name, out / name / f'{name}.py', cfg) for name in names]


def metrics(run):
    return json.loads(run.metrics.read_text())['accuracy/top1']


def test_runs_are_done_once(tmp_path, tools):
    runs = runs_of(candidates(tmp_path, 'a', 'b'), [0, 1])
    assert Work(tools).all(runs, slots_of(2, [])) == {}
    assert [metrics(run) for run in runs] == [60, 70, 61, 71]
    (tools / 'train.py').write_text('raise SystemExit("error: trained again")')
    assert Work(tools).all(runs, slots_of(2, [])) == {}
    runs[0].metrics.unlink()  # killed between training and the end of the test
    assert Work(tools).all(runs, slots_of(1, [])) == {}
    assert metrics(runs[0]) == 60


def test_a_failed_run_is_reported_and_the_rest_goes_on(tmp_path, tools, capfd):
    runs = runs_of(candidates(tmp_path, 'broken', 'b'), [0, 1])
    failed = Work(tools).all(runs, slots_of(1, []))
    assert {run.label: error for run, error in failed.items()} == dict.fromkeys(
        ('broken seed 0', 'broken seed 1'), 'error: no data; get some'
    )
    said = capfd.readouterr().err
    assert 'failed: broken seed 0: error: no data; get some' in said
    assert '2 of 4 runs done, 2 failed; 0:00:00 left' in said
    (tools / 'train.py').write_text(TRAIN.replace('broken', 'mended'))
    assert Work(tools).all(runs, slots_of(1, [])) == {}  # tried again
    assert metrics(runs[0]) == 60


def test_a_gpu_is_for_one_run_at_a_time(tmp_path, tools):
    (tools / 'train.py').write_text(
        TRAIN + "\nimport os\n(out / 'gpu').write_text(os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    runs = runs_of(candidates(tmp_path, 'a', 'b'), [0, 1, 2])
    assert not Work(tools).all(runs, slots_of(1, ['3', '5']))
    assert {(run.folder / 'gpu').read_text() for run in runs} <= {'3', '5'}


def test_a_run_that_another_process_still_trains_is_waited_for(tmp_path, tools):
    (run,) = runs_of(candidates(tmp_path, 'a'), [0])
    run.folder.mkdir(parents=True)
    with open(run.folder / 'lock', 'w') as lock, ThreadPoolExecutor(1) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a training does whose compare.py was killed
        waiting = pool.submit(Work(tools).all, [run], slots_of(1, []))
        time.sleep(1)
        assert not (run.folder / 'log.txt').exists() and not waiting.done()
        (run.folder / 'epoch_2.pth').write_text('a 7')
        (run.folder / 'last_checkpoint').write_text('epoch_2.pth')
        (run.folder / 'trained').touch()
        lock.close()
        assert waiting.result() == {}
    assert metrics(run) == 67


def test_a_training_whose_checkpoint_is_gone_begins_anew(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('epoch_1.pth')
    (tmp_path / 'old').mkdir()
    (tmp_path / 'log.txt').touch()
    compare.drop_what_cannot_be_resumed(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['log.txt']


def test_names():
    assert compare.names_of(['x/a.py', 'b.py']) == ['a', 'b']
    assert compare.names_of(['x/a.py', './y/a.py']) == ['x_a', 'y_a']
    with pytest.raises(UserError, match='given twice'):
        compare.names_of(['x/a.py', 'x/a.py'])


def test_time_left():
    assert compare.time_left(0, 3, 60) == 'time left not known yet'
    assert compare.time_left(2, 3, 3600) == '1:30:00 left'


def test_the_same_network_differs_by_nothing():
    same = {0: 91.2, 1: 90.1, 2: 93.3}
    assert paired(same, dict(same)) == (0.0, 0.0, 0.0, 1.0)


def test_a_difference_has_the_interval_and_p_of_the_paired_test():
    # By hand: differences 1, 2, 3; mean 2, standard error 1/sqrt(3), t(2) at 97.5 % is 4.3027.
    found = paired({0: 10, 1: 20, 2: 30, 5: 0}, {0: 11, 1: 22, 2: 33, 6: 0})
    assert found.mean == 2
    assert found.low == pytest.approx(2 - 4.302653 / 3**0.5)
    assert found.high == pytest.approx(2 + 4.302653 / 3**0.5)
    assert found.p == pytest.approx(0.0741799)


def test_what_cannot_be_tested():
    assert paired({}, {0: 1}) is None
    assert paired({0: 1}, {0: 2}) == (1, None, None, None)
    # No spread: a t-test would give p = 0 for an accident of few test images.
    constant = paired({0: 0.1, 1: 0.2, 2: 0.3}, {0: 0.2, 1: 0.3, 2: 0.4})
    assert constant.mean == pytest.approx(0.1) and constant.p is None


def test_several_tests_are_corrected():
    assert holm([0.01, None, 0.04, 0.03]) == [0.03, None, 0.06, 0.06]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_metric_is_the_configs_own_or_the_one_asked_for():
    found = ['coco/bbox_mAP', 'coco/bbox_mAP_50']
    assert choose_metric(['aAcc', 'mIoU']) == 'mIoU'
    assert choose_metric(['aAcc', 'mIoU'], save_best='aAcc') == 'aAcc'
    assert choose_metric(found, save_best='auto') == 'coco/bbox_mAP'
    assert choose_metric(found, 'bbox_mAP_50') == 'coco/bbox_mAP_50'
    with pytest.raises(UserError, match='--metric mAP: choose one of coco/bbox_mAP, coco'):
        choose_metric(found, 'mAP')


VALUES = dict(
    plain={0: 90.0, 1: 91.0, 2: 92.0},
    twin={0: 90.0, 1: 91.0, 2: 92.0},
    bad={0: 40.1, 1: 41.0, 2: 42.2},
    alone={0: 95.0},
)


def test_table():
    costs = dict(plain=dict(parameters=1234567, gflops=4.1115))
    rows = table_rows(VALUES, costs, 'accuracy/top1')
    assert [row['verdict'] for row in rows] == ['', 'no difference found', 'worse', 'not testable']
    text = compare_table.markdown(rows)
    line = '| plain | 91.00 ± 1.00 | 3 |  |  |  |  | 1,234,567 | 4.112 | - | - | - |'
    assert line in text.splitlines()
    assert '| bad | 41.10 ± 1.05 | 3 | -49.90 | -50.15 to -49.65 |' in text
    assert len(compare_table.as_csv(rows).splitlines()) == 5
    read = json.loads(compare_table.as_json(rows, VALUES, {}))
    assert read['rows'][2]['p'] < 1e-4 and read['runs']['twin']['1'] == 91.0
    assert table_rows(VALUES, {}, 'loss')[2]['verdict'] == 'better'


class Images(HTMLParser):
    """Collects what a page shows and what it would have to fetch."""

    def __init__(self):
        super().__init__()
        self.images, self.outside = [], []

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key in ('src', 'href') and not value.startswith('data:'):
                self.outside.append(value)
        if tag == 'img':
            self.images.append(dict(attrs)['src'])


@pytest.fixture
def html(tmp_path, tools):
    """A page of two configs with three seeds, and how many plots it has to have."""
    runs = runs_of(candidates(tmp_path / 'out', 'a', 'b'), [1, 2, 3])
    assert not Work(tools).all(runs, slots_of(2, []))
    values = {name: {} for name in 'ab'}
    for run in runs:
        values[run.config.name][run.seed] = metrics(run)
    costs = {name: dict(parameters=7, gflops=0.1) for name in 'ab'}
    rows = table_rows(values, costs, 'accuracy/top1')
    figures = compare_page.draw_curves(runs, 'accuracy/top1')
    figures.update(compare_page.draw_costs(rows))
    path = tmp_path / 'index.html'
    path.write_text(compare_page.page(rows, figures, {'b seed 9': 'error: <none>'}), 'utf-8')
    return path, 4


def test_curves_have_the_mean_and_the_band_of_the_seeds(tmp_path, tools):
    runs = runs_of(candidates(tmp_path, 'a'), [1, 3])
    assert not Work(tools).all(runs, slots_of(2, []))
    curves = [compare_page.read_curves(run, 'accuracy/top1') for run in runs]
    assert curves[0] == ({1: 1 / 2, 2: 1 / 3}, {1: 51, 2: 52})
    x, mean, deviation = compare_page.band([losses for losses, _ in curves])
    assert x == [1, 2] and mean == [(1 / 2 + 1 / 4) / 2, (1 / 3 + 1 / 5) / 2]
    assert deviation[0] == pytest.approx(0.25 / 2**0.5)


def test_page_holds_all_that_it_shows(html):
    path, plots = html
    text = path.read_text('utf-8')
    seen = Images()
    seen.feed(text)
    assert seen.outside == [] and len(seen.images) == plots
    for source in seen.images:
        svg = ElementTree.fromstring(base64.b64decode(source.split('base64,')[1]))
        assert svg.tag.endswith('svg') and len(list(svg.iter())) > 50
    assert 'error: &lt;none&gt;' in text and '<td>no difference' not in text


def test_page_in_a_browser(html, tmp_path):
    names = ('chromium', 'chromium-browser', 'google-chrome', 'chrome', 'headless_shell')
    browser = next((shutil.which(name) for name in names if shutil.which(name)), None)
    if browser is None:
        pytest.skip('no Chromium here: install chromium to open the page in it')
    path, plots = html
    script = """<script>
      const errors = [];
      addEventListener('error', e => errors.push(e.message || e.target.tagName), true);
      addEventListener('load', () => {
        const whole = [...document.images].filter(i => i.complete && i.naturalWidth > 0);
        document.title = `${whole.length} plots, ${errors.length} errors`;
      });
    </script></head>"""
    copy = tmp_path / 'copy.html'
    copy.write_text(path.read_text('utf-8').replace('</head>', script), 'utf-8')
    done = subprocess.run(
        [browser, '--headless', '--no-sandbox', '--disable-gpu', '--enable-logging=stderr',
         f'--user-data-dir={tmp_path}/profile', '--virtual-time-budget=10000', '--dump-dom',
         copy.as_uri()],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert f'<title>{plots} plots, 0 errors</title>' in done.stdout, done.stderr[-2000:]
    assert 'CONSOLE' not in done.stderr


def test_another_config_than_the_one_begun_with_is_refused(tmp_path, monkeypatch):
    path = tmp_path / 'a.py'
    path.write_text('model = dict(type="X")\ntrain_cfg = dict(max_epochs=1)')
    out = tmp_path / 'out'
    (first,) = compare.prepare([str(path)], out)
    assert first == Candidate('a', out / 'a/a.py', first.cfg)
    assert Config.fromfile(first.path).model == dict(type='X')
    compare.prepare([str(path)], out)
    with pytest.raises(UserError, match='not the config that'):
        compare.prepare([str(path)], out, {'train_cfg.max_epochs': 2})


def test_a_run_whose_test_gave_no_number_is_reported(tmp_path, tools, capsys):
    report = runpy.run_path(str(ROOT / 'tools/analysis/compare.py'))['report']
    configs = candidates(tmp_path, 'a', 'b')
    runs = runs_of(configs, [0])
    assert not Work(tools).all(runs, slots_of(1, []))
    for config in configs:
        config.path.write_text('')
    runs[0].metrics.write_text('{}')  # as mmdet's evaluators leave it when nothing is detected
    args = argparse.Namespace(out=tmp_path, metric=None, no_speed=True, shape=None)
    report(args, configs, runs, {})
    assert 'a seed 0: its test gave no accuracy/top1' in capsys.readouterr().out
    table = json.loads((tmp_path / 'table.json').read_text())
    assert [row['runs'] for row in table['rows']] == [0, 1] and 'a seed 0' in table['failed']
    runs[1].metrics.write_text('{}')
    with pytest.raises(UserError, match='the tests gave no number'):
        report(args, configs, runs, {})


def test_the_image_size_is_given_where_the_pipeline_does_not_say_it(tmp_path, monkeypatch, capsys):
    path, seen = tmp_path / 'a.py', []
    backbone = dict(type='mmpretrain.MobileNetV2', widen_factor=0.1)
    model = dict(type='mmpretrain.ImageClassifier', backbone=backbone)
    text = f'model = {model}\ntrain_dataloader = dict(dataset=dict(pipeline=[]))'
    path.write_text(f'{text}\ndefault_scope = "mmpretrain"')
    one = Candidate('a', path, Config.fromfile(path))
    assert 'gflops' not in compare_costs.size_of(one)
    assert 'a: not counted: ' in capsys.readouterr().out
    small, large = (compare_costs.size_of(one, shape)['gflops'] for shape in ((32, 32), (32, 64)))
    assert small > 0 and large == pytest.approx(2 * small)

    def benchmark(tools, file, arguments, gpu):
        seen.append(arguments[arguments.index('--size') + 1 :][:2])
        file.parent.mkdir(exist_ok=True)
        file.write_text('{"rows": [{"images_per_second": 1, "peak": 1}]}')

    monkeypatch.setattr(compare_costs, '_benchmark', benchmark)
    compare_costs.measure([one], tmp_path, tmp_path, 4, 1, None, (32, 64))
    assert seen == [[32, 64], [32, 64]]


def test_share_done(tmp_path):
    (config,) = candidates(tmp_path, 'a')
    run = Run(config, 0, tmp_path / 'a/seed0')
    assert compare.share_done(run) == 0
    log = Path(run.folder) / 'now/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('{"loss": 1, "epoch": 2, "step": 40}\n{"loss": 1, "ep')
    assert compare.share_done(run) == 0.5
    by_iteration = config._replace(cfg=Config(dict(train_cfg=dict(max_iters=80))))
    assert compare.share_done(run._replace(config=by_iteration)) == 0.5

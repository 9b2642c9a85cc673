"""Every kind of install holds the package, the configs and the tools, and leaves nothing behind."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from tools_helpers import save_checkpoint

ROOT = Path(__file__).parents[1]
SOURCES = [
    *('scsa', 'configs', 'tools', 'requirements', 'model-index.yml', 'setup.py', 'pyproject.toml'),
    *('MANIFEST.in', 'README.md', 'LICENSE', 'requirements.txt', 'Makefile', 'noxfile.py'),
    '.gitignore',
]
CONFIG = 'classification/resnet50_1xb128_in1k_scsa.py'
CHILD = f"""
_base_ = 'scsa::{CONFIG}'
optim_wrapper = dict(optimizer=dict(lr=0.125))
"""
PROBE = """
import scsa
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
cfg = Config.fromfile('child.py')
init_default_scope(cfg.default_scope)
model = MODELS.build(cfg.model)
print(scsa.__version__, type(model.backbone).__name__, cfg.optim_wrapper.optimizer)
"""


def run(*command, cwd, **options):
    """Runs a command that must succeed; returns what it printed."""
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=str(cwd), text=True, capture_output=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which('git') is None, reason='git decides what is ignored')
@pytest.mark.parametrize('kind', ['folder', 'link'])
def test_data_elsewhere_is_no_change_to_the_checkout(kind, tmp_path):
    run('git', 'init', '-q', '.', cwd=tmp_path)
    shutil.copy(ROOT / '.gitignore', tmp_path)
    data = tmp_path / 'data'
    data.mkdir() if kind == 'folder' else data.symlink_to(tmp_path.parent)
    (tmp_path / 'data' / 'x.jpg').touch()
    assert run('git', 'status', '--porcelain', '-uall', cwd=tmp_path) == '?? .gitignore\n'


def packed(folder):
    """Returns what `scsa/.mim` must hold, relative to it, for the checkout `folder`."""
    tops = [folder / 'configs', folder / 'tools', folder / 'model-index.yml']
    files = [p for top in tops for p in ([top] if top.is_file() else top.rglob('*'))]
    return {
        path.relative_to(folder).as_posix()
        for path in files
        if path.is_file()
        and '__pycache__' not in path.parts
        # What is for work on the project itself is not packed.
        and folder / 'tools' / 'dev' not in path.parents
    }


class Target:
    """A virtual environment that borrows the packages of the running one, but not its scsa."""

    def __init__(self, folder):
        venv.create(folder, symlinks=True)
        self.folder = folder
        self.python = folder / 'bin' / 'python'
        self.site = Path(sysconfig.get_path('purelib', vars={'base': str(folder)}))
        # A path line, not a site folder: the .pth files there, editable installs, are not read.
        (self.site / 'borrowed.pth').write_text(sysconfig.get_path('purelib'))

    def pip(self, *arguments):
        """Runs the borrowed pip on this environment."""
        pip = (sys.executable, '-m', 'pip', '--python', self.python)
        return run(*pip, *arguments, cwd=self.folder)

    def install(self, *what):
        """Installs without network."""
        offline = ('--no-deps', '--no-build-isolation', '--ignore-installed')
        self.pip('install', *offline, *what)

    def probe(self):
        """Reads and builds a child of one of our configs, far from the checkout."""
        (self.folder / 'child.py').write_text(CHILD)
        return run(self.python, '-c', PROBE, cwd=self.folder)


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    """A committed copy of the sources, as a clone has them."""
    folder = tmp_path_factory.mktemp('checkout')
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            unpacked = shutil.ignore_patterns('__pycache__', '.mim')
            shutil.copytree(source, folder / name, ignore=unpacked)
        else:
            shutil.copy2(source, folder / name)
    run('git', 'init', '-q', cwd=folder)
    run('git', 'add', '-A', cwd=folder)
    run('git', *('-c', 'user.name=x', '-c', 'user.email=x'), 'commit', '-qm', 'x', cwd=folder)
    yield folder
    assert run('git', 'status', '--porcelain', cwd=folder) == ''  # whatever was built in it


@pytest.fixture(scope='module')
def sdist(checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp('sdist')
    build = f'from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})'
    run(sys.executable, '-c', build, cwd=checkout)
    (archive,) = folder.glob('*.tar.gz')
    return archive


def wheel_from(source, folder):
    offline = ('--no-deps', '--no-build-isolation')
    run(sys.executable, '-m', 'pip', 'wheel', *offline, source, '-w', folder, cwd=folder)
    (wheel,) = folder.glob('*.whl')
    return wheel


@pytest.fixture(scope='module')
def wheel(sdist, tmp_path_factory):
    return wheel_from(sdist, tmp_path_factory.mktemp('wheel'))


@pytest.fixture
def target(tmp_path):
    return Target(tmp_path / 'env')


def test_sdist_holds_the_sources_and_mim(checkout, sdist):
    with tarfile.open(sdist) as archive:
        files = {m.name.partition('/')[2] for m in archive.getmembers() if m.isfile()}
    assert sdist.name == 'scsa_attention-0.1.0.tar.gz'
    needed = packed(checkout)
    assert needed | {f'scsa/.mim/{name}' for name in needed} <= files
    assert {'setup.py', 'requirements/runtime.txt', 'requirements/paper-constraints.txt'} <= files
    assert not [name for name in files if '__pycache__' in name]


def test_wheel_holds_exactly_the_package_and_mim(checkout, sdist, wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
    mim = {name for name in files if name.startswith('scsa/.mim/')}
    assert mim == {f'scsa/.mim/{name}' for name in packed(checkout)}
    code = {p.relative_to(checkout).as_posix() for p in checkout.glob('scsa/**/*.py')}
    dist_info = {name for name in files if name.split('/')[0].endswith('.dist-info')}
    assert files - mim - dist_info == {name for name in code if '/.mim/' not in name}
    # straight from the checkout, after a build of what is no longer there
    for stale in ('gone.py', '.mim/configs/gone.py'):
        path = checkout / 'build' / 'lib' / 'scsa' / stale
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('')
    with zipfile.ZipFile(wheel_from(checkout, tmp_path)) as archive:
        assert set(archive.namelist()) == files


def test_metadata_asks_for_torch_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = Parser().parsestr(
            archive.read('scsa_attention-0.1.0.dist-info/METADATA').decode()
        )
    assert metadata['Name'] == 'scsa-attention'
    assert metadata['Requires-Python'] == '>=3.8'
    requires = metadata.get_all('Requires-Dist')
    assert [r for r in requires if 'extra ==' not in r] == ['torch>=2.1']
    mim = [re.match(r'[\w-]+', r)[0] for r in requires if re.search('extra == .mim', r)]
    assert sorted(mim) == ['mmcv', 'mmengine', 'mmpretrain']


def test_wheel_install_serves_configs_and_goes_without_trace(wheel, target):
    before = set(target.folder.rglob('*'))
    target.install(wheel)
    assert target.probe().startswith('0.1.0 ResNetSCSA')
    (target.folder / 'child.py').unlink()
    target.pip('uninstall', '-y', 'scsa-attention')
    assert set(target.folder.rglob('*')) == before


DRAWING = [ROOT / 'tools/infer.py', *sorted((ROOT / 'tools/visualization').glob('*.py'))]


@pytest.fixture(scope='module')
def far_from_the_checkout(wheel, tmp_path_factory):
    """An installed wheel, and a folder with configs that inherit ours, weights, images, a log."""
    for module in ('mmpretrain', 'matplotlib', 'pytorch_grad_cam', 'skimage'):
        pytest.importorskip(module)
    import numpy as np
    from PIL import Image

    target, place = Target(tmp_path_factory.mktemp('env')), tmp_path_factory.mktemp('place')
    target.install(wheel)
    for name in ('resnet18_digits', 'resnet18_digits_scsa'):
        (place / f'{name}.py').write_text(f"_base_ = 'scsa::quickstart/{name}.py'\n")
        classes = [str(digit) for digit in range(10)]
        save_checkpoint(f'configs/quickstart/{name}.py', place / f'{name}.pth', classes)
    for label in ('3', '5'):
        (place / 'images' / label).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 256, (56, 56), np.uint8)
            Image.fromarray(pixels).save(place / f'images/{label}/{number}.png')
    log = place / 'run/20260101_000000/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('{"loss": 1.0, "lr": 0.1, "epoch": 1, "iter": 1, "step": 1}\n')
    return target, place


@pytest.mark.slow
@pytest.mark.parametrize('tool', DRAWING, ids=lambda tool: tool.stem)
def test_the_tools_that_draw_run_from_a_wheel(tool, far_from_the_checkout):
    """By the path that docs/visualization.md gives."""
    target, place = far_from_the_checkout
    page = (ROOT / 'docs/visualization.md').read_text('utf-8')
    folder = re.search(r'python "(\$\(python -c .*?\)/\.mim/tools)/visualization/', page)[1]
    path = os.pathsep.join([str(target.python.parent), os.environ['PATH']])
    shell = {**os.environ, 'PATH': path, 'PYTHONPATH': '', 'SCSA_DEBUG': '1'}
    (folder,) = run('bash', '-c', f'echo "{folder}"', cwd=place, env=shell).splitlines()
    assert target.site in Path(folder).parents
    scsa, plain = (
        f'--model={n}={n}.py,{n}.pth' for n in ('resnet18_digits_scsa', 'resnet18_digits')
    )
    given = {
        'infer': ['resnet18_digits_scsa.py', 'resnet18_digits_scsa.pth', 'images'],
        'attention_maps': ['images/3/0.png', scsa],
        'curves': ['run'],
        'similarity': ['cka', 'images', scsa, plain],
    }.get(tool.stem, ['images', scsa, plain])
    installed = Path(folder) / tool.relative_to(ROOT / 'tools')
    run(target.python, installed, *given, '--out-dir', tool.stem, cwd=place, env=shell)
    drawn = list((place / tool.stem).rglob('*.png'))
    assert drawn and min(picture.stat().st_size for picture in drawn) > 1000


@pytest.mark.parametrize('mode', [pytest.param('lenient', marks=pytest.mark.slow), 'strict'])
def test_editable_install_sees_edits_and_goes_without_trace(checkout, target, mode):
    before = set(target.folder.rglob('*'))
    target.install('-e', checkout, '--config-settings', f'editable_mode={mode}')
    config = checkout / 'configs' / CONFIG
    text = config.read_text()
    try:
        config.write_text(text + '\noptim_wrapper = dict(optimizer=dict(seen=True))\n')
        printed = target.probe()
    finally:
        config.write_text(text)
    assert printed.startswith('0.1.0 ResNetSCSA')
    assert "'seen': True" in printed and "'lr': 0.125" in printed
    (target.folder / 'child.py').unlink()
    target.pip('uninstall', '-y', 'scsa-attention')
    assert set(target.folder.rglob('*')) == before


def test_editable_install_without_links_copies(checkout, tmp_path):
    """File systems without links exist; a later install replaces the copies."""
    broken = 'import pathlib; pathlib.Path.symlink_to = lambda *_, **__: os.link("", "")'
    editable = f'build_meta.build_editable({str(tmp_path)!r})'
    mim = checkout / 'scsa' / '.mim'
    for links, preparation in ((False, f'import os; {broken}; '), (True, '')):
        script = f'{preparation}from setuptools import build_meta; {editable}'
        run(sys.executable, '-c', script, cwd=checkout)
        assert (mim / 'configs').is_symlink() is links
        names = {str(p.relative_to(mim)) for p in mim.glob('configs/**/*') if p.is_file()}
        assert names == {n for n in packed(checkout) if n.startswith('configs/')} or links
        assert (mim / 'configs' / CONFIG).is_file()


def test_a_base_that_is_not_there_is_answered_with_the_nearest(tmp_path):
    from mmengine.config import Config

    import scsa  # noqa: F401

    child = tmp_path / 'child.py'
    child.write_text("_base_ = 'scsa::classification/resnet50_scsa.py'\n")
    with pytest.raises(FileNotFoundError, match=r"'classification/resnet50_\w+\.py'"):
        Config.fromfile(child)


def test_what_a_base_of_ours_defines_is_looked_for_in_its_default_scope(tmp_path, monkeypatch):
    """A bare entry in mmengine's table of packages fails here: no registry is called scsa."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    import scsa

    base = tmp_path / 'classification' / 'base.py'
    base.parent.mkdir()
    base.write_text("head = dict(type='LinearClsHead', num_classes=2, in_channels=4)")
    child = tmp_path / 'child.py'
    child.write_text("_base_ = 'scsa::classification/base.py'")
    monkeypatch.setattr(scsa.openmmlab.config_bases, 'CONFIGS', tmp_path)
    init_default_scope('mmpretrain')
    assert MODELS.build(Config.fromfile(child).head).num_classes == 2


def test_model_index_names_configs_that_build_to_what_it_states():
    import yaml
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    import scsa  # noqa: F401

    files = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    models = [m for f in files for m in yaml.safe_load((ROOT / f).read_text())['Models']]
    stated = [model for model in models if 'Metadata' in model]
    assert len(stated) >= 3
    for model in stated:
        config = Config.fromfile(ROOT / model['Config'])
        init_default_scope(config.default_scope)
        parameters = sum(p.numel() for p in MODELS.build(config.model).parameters())
        assert (model['Name'], parameters) == (
            Path(model['Config']).stem,
            model['Metadata']['Parameters'],
        )


@pytest.mark.parametrize(
    ('lane', 'also'),
    [
        ('paper', ['mmcv', 'mmcv-lite']),
        ('modern', ['onedl-mmcv', 'mmcv-lite']),
        *(('torch-oldest', []), ('torch-newest', []), ('ultralytics', []), ('dev', [])),
    ],
)
def test_every_requirement_of_a_lane_is_pinned(lane, also):
    folder = ROOT / 'requirements'
    constraints = re.search(r'^-c (\S+)', (folder / f'{lane}.txt').read_text(), re.MULTILINE)[1]

    def names(file):
        for line in (folder / file).read_text().splitlines():
            if line.startswith('-r '):
                yield from names(line[3:])
            elif line and line[0] not in '-#':
                yield re.match(r'[\w-]+', line)[0]

    lines = (folder / constraints).read_text().splitlines()
    pins = [line for line in lines if line and line[0] != '#']
    exact = re.compile(r'([a-z0-9-]+)==[\w.]+( ; python_version [<>=]{1,2} "3\.\d+")?')
    assert [line for line in pins if not exact.fullmatch(line)] == []
    assert {*names(f'{lane}.txt'), *also} <= {exact.fullmatch(line)[1] for line in pins}


@pytest.mark.parametrize(
    'lane', ['paper', 'modern', 'torch-oldest', 'torch-newest', 'ultralytics', 'dev']
)
def test_the_lock_fits_the_requirement_files(lane):
    from packaging.requirements import Requirement

    folder = ROOT / 'requirements'
    text = (folder / f'{lane}.txt').read_text()
    pins = re.search(r'^-c (\S+)', text, re.MULTILINE)[1]

    def asked(file):
        for line in (folder / file).read_text().splitlines():
            if line.startswith('-r '):
                yield from asked(line[3:])
            elif line and line[0] not in '-#':
                yield re.match(r'[\w-]+', line)[0]

    lock = re.sub(r' \\\n', ' ', (folder / 'locks' / f'{lane}.txt').read_text()).splitlines()
    lock = [line.partition(' --hash=sha256:') for line in lock if line[0] not in ' #']
    assert all(hashes for _, _, hashes in lock)
    constraints = [
        Requirement(line)
        for line in (folder / pins).read_text().splitlines()
        if line and line[0] != '#'
    ]
    for python in re.search('^# python: (.*)', text, re.MULTILINE)[1].split():
        here = dict(python_version=python, python_full_version=f'{python}.10',
                    sys_platform='linux', platform_system='Linux', platform_machine='x86_64',
                    os_name='posix', platform_python_implementation='CPython')  # fmt: skip
        locked, pinned = (
            {r.name: str(r.specifier) for r in found if not r.marker or r.marker.evaluate(here)}
            for found in ([Requirement(line) for line, _, _ in lock], constraints)
        )
        assert set(asked(f'{lane}.txt')) <= set(locked)
        assert {name: pinned.get(name) for name in locked} == locked
        assert ('mmcv-lite' in locked) == (lane in ('paper', 'modern'))
        assert not {'mmcv', 'onedl-mmcv'} & set(locked)


def test_no_lane_mixes_the_originals_with_the_forks():
    folder = ROOT / 'requirements'
    files = ('modern-constraints.txt', 'modern.txt', 'locks/modern.txt')
    modern = ''.join((folder / file).read_text() for file in files)
    assert not re.search(r'^mm(?!cv-lite)\w+(=|$)', modern, re.MULTILINE)
    for lane in ('paper', 'torch-oldest', 'torch-newest'):
        assert 'onedl' not in (folder / f'{lane}.txt').read_text()
    # What a user asks for beside the module must not pull the originals over the forks.
    for extra in ('runtime', 'optional', 'tests'):
        assert 'mm' not in re.sub('#.*', '', (folder / f'{extra}.txt').read_text())


def test_nobody_is_sent_to_somebody_elses_package():
    texts = [*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), *ROOT.glob('scsa/**/*.py')]
    texts += [ROOT / 'Makefile', *ROOT.glob('tools/**/*.*'), *ROOT.glob('requirements/**/*.txt')]
    texts = [path for path in texts if path.suffix != '.pyc']
    wrong = re.compile(r'(pip|mim) install[^\n`]* scsa(?![\w-])')
    assert [str(p) for p in texts if wrong.search(p.read_text(encoding='utf-8'))] == []

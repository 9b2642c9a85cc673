"""The example in the help of each tool runs as it stands after `make demo` or `demo-compare`."""

import ast
import shlex

import numpy as np
import pytest
from PIL import Image
from tools_helpers import ROOT, save_checkpoint

pytest.importorskip('mmpretrain')

FOLDER = ROOT / 'tools/visualization'
TOOLS = ['tools/infer.py', *sorted(f'tools/visualization/{p.name}' for p in FOLDER.glob('*.py'))]
FROM_LOGS = ['tools/visualization/curves.py']  # needs no model; its own tests run it
PACKAGES = {
    'tools/visualization/cam.py': 'pytorch_grad_cam',
    'tools/visualization/similarity.py': 'skimage',
}


def example(tool):
    """The arguments of the command in the help of a tool."""
    text = ast.get_docstring(ast.parse((ROOT / tool).read_text('utf-8')))
    start = text.index(f'python {tool} ')
    command = text[start:].replace('\\\n', ' ').splitlines()[0]
    return shlex.split(command)[1:]


@pytest.fixture(scope='module')
def after_the_demo(tmp_path_factory):
    """The configs, a few digits, and checkpoints with random weights in place of the trained."""
    folder = tmp_path_factory.mktemp('checkout')
    (folder / 'configs').symlink_to(ROOT / 'configs')
    rng = np.random.default_rng(0)
    for label in (3, 5):
        place = folder / f'data/digits/val/{label}'
        place.mkdir(parents=True)
        for number in (45, 46, 47, 48):
            pixels = rng.integers(0, 256, (56, 56), np.uint8)
            Image.fromarray(pixels).save(place / f'{number:04d}.png')
    for name in ('resnet18_digits', 'resnet18_digits_scsa'):
        (folder / 'work_dirs' / name).mkdir(parents=True)
        checkpoint = folder / 'work_dirs' / name / 'epoch_10.pth'
        save_checkpoint(f'configs/quickstart/{name}.py', checkpoint, [str(i) for i in range(10)])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('tool', [tool for tool in TOOLS if tool not in FROM_LOGS])
def test_the_example_in_the_help(tool, after_the_demo, in_process, monkeypatch):
    if tool in PACKAGES:
        pytest.importorskip(PACKAGES[tool])
    monkeypatch.chdir(after_the_demo)
    before = set(after_the_demo.rglob('*'))
    in_process(*example(tool))
    assert {path.suffix for path in set(after_the_demo.rglob('*')) - before} & {'.png', '.json'}

"""mmengine's switch `compile` through tools/train.py."""

import json

import pytest
from tools_helpers import CONFIG, run_tool, tiny


def train(digits, work_dir, *options):
    seen = run_tool(
        'tools/train.py', CONFIG, '--work-dir', work_dir, '--no-validate',
        *tiny(digits, 'train_cfg.max_epochs=1', *options),
    )  # fmt: skip
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return seen, [row['loss'] for row in rows if 'loss' in row]


@pytest.mark.long
@pytest.mark.parametrize(
    'switch',
    [
        'compile.backend=eager',  # Dynamo's capture alone
        pytest.param('compile=True', marks=pytest.mark.slow),  # inductor, as users type it
    ],
)
def test_training_goes_as_without(digits, tmp_path, switch):
    seen, found = train(digits, tmp_path / 'compiled', switch)
    assert 'Model has been "compiled"' in seen
    _, expected = train(digits, tmp_path / 'plain')
    assert len(found) == 3 and found == pytest.approx(expected, rel=1e-3)

import pytest
from config_helpers import make_data


@pytest.fixture(scope='session')
def data_root(tmp_path_factory):
    """A folder with a `data/` in it; configs find everything when run from here."""
    pytest.importorskip('mmcv.ops', reason='mmdet and mmseg need mmcv with its compiled operators')
    root = tmp_path_factory.mktemp('project')
    (root / 'data').mkdir()
    make_data(root / 'data')
    return root

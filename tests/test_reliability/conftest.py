import pytest


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    from scsa.datasets.digits import write_digits

    out = tmp_path_factory.mktemp('digits')
    write_digits(out, 28)
    return out


@pytest.fixture(scope='session')
def scenes(tmp_path_factory):
    from scsa.datasets.digit_scenes import write

    out = tmp_path_factory.mktemp('scenes') / 'digit_scenes'
    write(out, {'train': 6, 'val': 3}, size=160, seed=0)
    return out

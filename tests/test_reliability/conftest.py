import pytest


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    from scsa.datasets.digits import write_digits

    out = tmp_path_factory.mktemp('digits')
    write_digits(out, 28)
    return out

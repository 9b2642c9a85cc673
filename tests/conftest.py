import gc
import os
import sys

import pytest
import torch

# Two processes that spin for the same two cores are slower than one after the other.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')


def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help='also run what trains for many minutes')


def pytest_collection_modifyitems(config, items):
    # What takes minutes comes first, so that in parallel no process is left with it at the end.
    items.sort(key=lambda item: item.get_closest_marker('long') is None)
    if not config.getoption('--slow'):
        for item in items:
            if item.get_closest_marker('slow'):
                item.add_marker(pytest.mark.skip(reason='trains for many minutes: pytest --slow'))


def pytest_collection_finish():
    # mmengine collects garbage for each data set that it reads: a quarter of a second if it has to
    # look through all that was imported.
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_random_numbers_every_time():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _the_default_scope_of_a_test_ends_with_it():
    # A run of MMEngine sets a scope for its process. Left there, a later test in the same process
    # would look for its models in the registry of another library.
    yield
    registry = sys.modules.get('mmengine.registry')
    if registry is not None:
        registry.DefaultScope._instance_dict.clear()

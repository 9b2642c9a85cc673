import os

import pytest
import torch

# Two processes that spin for the same two cores are slower than one after the other.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')


@pytest.fixture(autouse=True)
def _same_random_numbers_every_time():
    torch.manual_seed(0)

"""Thousands of steps at changing sizes: memory and live tensors stay as they were."""

import gc
import logging
import mmap
import os
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scsa import SCSA

STEPS, EVALUATIONS = 2000, 5000
MAP = 3 * 16 * 16 * 16 * 4  # bytes of the largest map of the middle of the network
# Far less than what a map kept at each of 1,500 steps takes.
MOST = 1500 * MAP // 10


class Network(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.attn, self.head = SCSA(16, window_size=3, **options), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.attn(self.norm(self.stem(x)).relu()).mean((2, 3)))


def resident():
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def tensors():
    gc.collect()
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())


def sizes(seed):
    """24 of them, in random order without end, so that what is cached for a size is soon known."""
    draw = random.Random(seed)
    of = [(draw.randint(1, 3), draw.randint(8, 16), draw.randint(8, 16)) for _ in range(24)]
    while True:
        yield draw.choice(of)


def over_time(step, count):
    """Runs a quarter of the steps to warm up; what has grown during the others, and when.

    Returns:
        Bytes of resident memory and live tensors, above those after the first quarter.
    """
    each = sizes(0)
    found = []
    for i in range(count):
        step(next(each))
        if (i + 1) % (count // 4) == 0:
            found.append((tensors(), resident()))
    first = found[0]
    return [(live - first[0], memory - first[1]) for live, memory in found[1:]]


def training(network, forward):
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)

    def step(size):
        batch, height, width = size
        optimizer.zero_grad()
        loss = F.cross_entropy(
            forward(torch.randn(batch, 3, height, width)), torch.zeros(batch).long()
        )
        loss.backward()
        optimizer.step()

    return step


def evaluation(network, forward):
    network.eval()

    def step(size):
        with torch.no_grad():
            forward(torch.randn(size[0], 3, *size[1:]))

    return step


def flat(grown):
    return all(live == 0 and memory < MOST for live, memory in grown)


OPTIONS = [dict(), dict(attn_drop_ratio=0.1, down_sample_mode='recombination', head_num=2)]


@pytest.mark.slow
@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_eager(options):
    network = Network(**options)
    for make, count in ((training, STEPS), (evaluation, EVALUATIONS)):
        grown = over_time(make(network, network), count)
        assert flat(grown), grown


# torch 2.1 compiles for each number of images and for each remainder of a side by the window.
MOST_COMPILATIONS = 24 if torch.__version__ < '2.2' else 8


class Reasons(logging.Handler):
    """What torch.compile says when it compiles once more."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.found = []

    def emit(self, record):
        self.found.append(record.getMessage())


@pytest.fixture
def reasons():
    torch._dynamo.reset()
    torch._logging.set_logs(recompiles=True)
    module = 'convert_frame' if torch.__version__ < '2.2' else 'guards'
    logger = logging.getLogger(f'torch._dynamo.{module}.__recompiles')
    handler = Reasons()
    logger.addHandler(handler)
    yield handler.found
    logger.removeHandler(handler)
    torch._logging.set_logs()
    torch._dynamo.reset()


@pytest.mark.slow
def test_compiled(reasons):
    """Each compilation after the first says which size, or what else, it had not yet seen."""
    network = Network()
    forward = torch.compile(network, backend='aot_eager')
    for make, count in ((training, STEPS), (evaluation, EVALUATIONS)):
        grown = over_time(make(network, forward), count)
        assert flat(grown), grown
    print(*reasons, sep='\n')
    assert 0 < len(reasons) <= MOST_COMPILATIONS, reasons


def new_pages(size):
    """Memory that is none that was freed before: the heap of a long process has much of that."""
    pages = mmap.mmap(-1, size)
    pages.write(b'1' * size)
    return pages


@pytest.mark.parametrize('what', ['tensor', 'memory'])
def test_a_leak_is_found(what):
    """By the same counts: a small tensor kept at each step; memory that no tensor knows of."""
    kept, network = [], Network()
    step = training(network, network)

    def leaking(size):
        step(size)
        kept.append(torch.ones(1) if what == 'tensor' else new_pages(8 * MAP))

    grown = over_time(leaking, 200)
    assert not flat(grown)
    assert what == 'tensor' or all(live == 0 for live, _ in grown)

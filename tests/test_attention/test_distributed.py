"""Two processes with half a batch each give the gradients of one with the whole batch."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from numerics import distance, randomise

from scsa import SCSA

pytestmark = pytest.mark.skipif(not dist.is_available(), reason='this torch has no distributed')


def build():
    torch.manual_seed(0)
    return randomise(SCSA(16)).double(), torch.randn(4, 16, 14, 9, dtype=torch.float64)


def gradients(module, x):
    module(x).square().mean().backward()
    return torch.cat([p.grad.flatten() for p in module.parameters()])


def half_a_batch(rank, file, out):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{file}', rank=rank, world_size=2)
    module, x = build()
    grads = gradients(torch.nn.parallel.DistributedDataParallel(module), x[2 * rank :][:2])
    if rank == 0:
        torch.save(grads, out)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # torch 2.13 once aborted at the end of a process, a thread of gloo still there


@pytest.mark.long
def test_two_processes_give_the_gradients_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv('SCSA_REGISTER', '0')  # for the two: importing OpenMMLab takes seconds
    mp.spawn(half_a_batch, (str(tmp_path / 'store'), str(tmp_path / 'grads')), nprocs=2)
    assert distance(torch.load(tmp_path / 'grads'), gradients(*build())) < 1e-12

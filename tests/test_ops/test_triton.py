"""The Triton kernels against the reference, through Triton's interpreter where there is no GPU."""

import copy
import importlib
import random

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fast_cases import STAGES, distance, output_and_gradients, random_map, random_module, reference
from torch.utils.checkpoint import checkpoint

import scsa
from scsa import SCSA
from scsa.ops import dispatch, first_use

pytest.importorskip('triton', minversion='3.3')
triton_passes = importlib.import_module('scsa.ops.passes.triton')

GPU = torch.cuda.is_available()
DEVICE = 'cuda' if GPU else 'cpu'
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """The interpreter takes its time for each program, a GPU runs all at once."""
    if not GPU:
        monkeypatch.setattr(triton_passes, 'PROGRAMS', 4)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_rows_split_among_programs(monkeypatch, layout):
    """Sums over columns are then added up from what each program found."""
    monkeypatch.setattr(triton_passes, 'PROGRAMS', 40)
    torch.manual_seed(0)
    x = torch.randn(1, 8, 31, 10).contiguous(memory_format=layout)
    assert triton_passes.launch(x, 7).sizes['splits'] > 1
    check(SCSA(8), x)


LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize('layout', LAYOUTS)
def test_enough_programs_at_a_batch_of_16(monkeypatch, layout):
    monkeypatch.setattr(triton_passes, 'PROGRAMS', 4 * 132)
    for channels, size in STAGES:
        x = torch.empty(16, channels, size, size, device='meta')
        cut = triton_passes.launch(x.contiguous(memory_format=layout), 7)
        assert cut.programs >= 4 * 132


@pytest.mark.parametrize('layout', LAYOUTS)
def test_nothing_new_to_compile_after_twenty_image_sizes(layout):
    """Of a detector that is trained at many scales: short side 640 to 800, padded to 32."""
    draw = random.Random(0)

    def variants():
        short = draw.randrange(640, 801, 32)
        long = min(1333, int(short * draw.uniform(1, 1.6)))
        height, width = (-(-side // 32) * 32 for side in draw.sample((short, long), 2))
        for stage, channels in enumerate((64, 128, 256, 512)):
            x = torch.empty(2, channels, height >> stage + 2, width >> stage + 2, device='meta')
            for band in (7, triton_passes.HEIGHT):
                cut = triton_passes.launch(x.contiguous(memory_format=layout), band)
                yield band, str(cut.constants)

    first = {variant for _ in range(20) for variant in variants()}
    later = {variant for _ in range(300) for variant in variants()}
    assert later <= first and len(first) <= 24


def by_triton(module):
    def call(x):
        with scsa.backend('triton'):
            return module(x)

    return call


def check(module, x, tolerance=1e-5):
    """Output and gradients, relative to the largest value; of parameters, to that of any."""
    module, x = module.to(DEVICE), x.to(DEVICE)
    found = output_and_gradients(by_triton(module), module, x)
    exact = copy.deepcopy(module).double()
    expected = output_and_gradients(reference(exact), exact, x.double())
    assert found[0].dtype == found[1].dtype == x.dtype
    assert distance(found[0], expected[0]) < tolerance
    assert distance(found[1], expected[1]) < tolerance
    scale = max(e.abs().max() for e in expected[2:])  # some are zero but for rounding
    published = output_and_gradients(reference(module), module, x.float())
    for a, b, c in zip(found[2:], expected[2:], published[2:]):
        # Sums of large terms: where they cancel, the published formulation is no more exact.
        limit = max(10 * tolerance * scale, (c.double() - b).abs().max())
        assert (a.double() - b).abs().max() < limit


@pytest.mark.parametrize('seed', range(16))
def test_equals_reference(seed):
    draw = random.Random(seed)
    module = random_module(draw, down_sample_mode='avg_pool')
    check(module, random_map(draw, module, torch.float32))


@pytest.mark.parametrize('mode', ['max_pool', 'recombination'])
@pytest.mark.parametrize('seed', range(4))
def test_the_other_ways_to_make_tokens(mode, seed):
    """As exact as the eager path, whose code makes the tokens here too."""
    draw = random.Random(seed)
    module = random_module(draw, down_sample_mode=mode)
    x = random_map(draw, module, torch.float32)
    found = output_and_gradients(by_triton(module), module, x)
    with scsa.backend('eager'):
        expected = output_and_gradients(module, module, x)
    scale = max(e.abs().max() for e in expected[1:])
    assert distance(found[0], expected[0]) < 1e-5
    for a, b in zip(found[1:], expected[1:]):
        assert (a - b).abs().max() / scale < 1e-4


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_half_precision(dtype, layout):
    torch.manual_seed(0)
    x = torch.randn(2, 16, 15, 14).to(dtype).contiguous(memory_format=layout)
    check(SCSA(16), x, TOLERANCE[dtype])


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_maps_larger_than_a_tile(monkeypatch, layout):
    monkeypatch.setattr(triton_passes, 'TILE', 32)  # several blocks of rows, channels and windows
    torch.manual_seed(0)
    x = torch.randn(1, 12, 7, 9).contiguous(memory_format=layout)
    check(SCSA(12, gate_layer='softmax', window_size=3), x)


@pytest.mark.parametrize('gate', ['sigmoid', 'softmax'])
def test_more_channels_and_tokens_than_a_block(gate):
    torch.manual_seed(0)
    module = SCSA(80, head_num=2, window_size=2, gate_layer=gate, qkv_bias=True)
    check(module, torch.randn(1, 80, 18, 16))  # heads of 40 channels, 72 tokens


@pytest.mark.parametrize(('window', 'size'), [(20, (41, 23)), (-1, (19, 33)), (7, (3, 5))])
def test_large_windows_and_small_maps(window, size):
    torch.manual_seed(0)
    module, x = SCSA(8, window_size=window), torch.randn(1, 8, *size)
    if min(size) >= window:
        check(module, x)
    module, x = module.to(DEVICE), x.to(DEVICE)
    found = output_and_gradients(by_triton(module), module, x)
    with scsa.backend('eager'):
        expected = output_and_gradients(module, module, x)
    for a, b in zip(found[:2], expected[:2]):
        assert distance(a, b) < 1e-5


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_keeps_the_layout(layout):
    x = torch.randn(2, 16, 9, 8, device=DEVICE).contiguous(memory_format=layout)
    found = output_and_gradients(by_triton(SCSA(16).to(DEVICE)), SCSA(16).to(DEVICE), x)
    assert found[0].is_contiguous(memory_format=layout)
    assert found[1].is_contiguous(memory_format=layout)


def test_the_same_bits_twice():
    module, x = SCSA(16).to(DEVICE), torch.randn(2, 16, 14, 14, device=DEVICE)
    first = output_and_gradients(by_triton(module), module, x)
    for a, b in zip(output_and_gradients(by_triton(module), module, x), first):
        assert torch.equal(a, b)


def test_dropout_draws_anew_and_its_gradient_fits():
    torch.manual_seed(0)
    module = SCSA(8, head_num=2, window_size=-1, attn_drop_ratio=0.3)
    for parameter in module.parameters():
        parameter.data.normal_(0.5, 1.0)
    x = torch.randn(1, 8, 3, 3)
    module, x = module.to(DEVICE), x.to(DEVICE)

    def seeded(x):
        torch.manual_seed(5)
        return by_triton(module)(x)

    assert torch.equal(seeded(x), seeded(x))
    assert not torch.equal(seeded(x), by_triton(module)(x))
    grad_out = torch.randn(x.shape, dtype=torch.float64).to(x)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(seeded(x), x, grad_out)
    step = 1e-2 * torch.randn_like(x)
    with torch.no_grad():
        rise = ((seeded(x + step) - seeded(x - step)) / 2 * grad_out).sum().item()
    assert rise == pytest.approx((gradient * step).sum().item(), rel=2e-2)
    assert torch.equal(by_triton(module.eval())(x), by_triton(module)(x))


@pytest.mark.parametrize('mode', ['avg_pool', 'max_pool', 'recombination'])
def test_second_derivatives_take_the_plain_composition(mode):
    torch.manual_seed(0)
    module = SCSA(8, window_size=2, down_sample_mode=mode).to(DEVICE)
    x = torch.randn(1, 8, 5, 4, device=DEVICE, requires_grad=True)

    def twice(function):
        (first,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    assert distance(twice(by_triton(module)), twice(reference(module))) < 1e-4


@pytest.mark.parametrize('reentrant', [True, False])
def test_checkpointing_draws_the_same_dropout(reentrant):
    module, x = SCSA(8, attn_drop_ratio=0.4).to(DEVICE), torch.randn(1, 8, 7, 7, device=DEVICE)

    def seeded(function):
        torch.manual_seed(0)
        return output_and_gradients(function, module, x)

    found = seeded(lambda x: checkpoint(by_triton(module), x, use_reentrant=reentrant))
    for a, b in zip(found, seeded(by_triton(module))):
        torch.testing.assert_close(a, b)


def test_autocast_no_images_and_a_half_module():
    module = SCSA(8).to(DEVICE)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        assert by_triton(module)(torch.randn(1, 8, 7, 7, device=DEVICE)).dtype == torch.float32
    assert by_triton(module)(torch.ones(0, 8, 7, 7, device=DEVICE)).shape == (0, 8, 7, 7)
    module.bfloat16()
    x = torch.randn(1, 8, 7, 7, device=DEVICE).bfloat16()
    found = output_and_gradients(by_triton(module), module, x)
    assert all(t.dtype == torch.bfloat16 for t in found)


@pytest.mark.parametrize('mode', [torch.inference_mode(), torch.autocast(DEVICE, torch.bfloat16)])
def test_the_first_use_may_come_from_any_mode(mode):
    with mode:
        first_use.check(triton_passes, torch.device(DEVICE))


@pytest.mark.parametrize('mode', ['avg_pool', 'max_pool', 'recombination'])
@pytest.mark.parametrize('size', [(7, 7), (7, 9), (14, 14)])
def test_no_images_with_gradients(size, mode):
    module, x = SCSA(8, down_sample_mode=mode), torch.randn(0, 8, *size)
    module, x = module.to(DEVICE), x.to(DEVICE)
    found = output_and_gradients(by_triton(module), module, x)
    assert found[0].shape == found[1].shape == x.shape
    assert all(gradient is not None and not gradient.any() for gradient in found[2:])


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize(('window', 'size'), [(1, (5, 9)), (7, (1, 9))])
def test_windows_of_one_row(window, size, layout):
    """The tokens then give a value to each pixel."""
    torch.manual_seed(0)
    module, x = SCSA(8, window_size=window), torch.randn(2, 8, *size)
    module, x = module.to(DEVICE), x.to(DEVICE).contiguous(memory_format=layout)
    found = output_and_gradients(by_triton(module), module, x)
    with scsa.backend('eager'):
        expected = output_and_gradients(module, module, x)
    for a, b in zip(found[:2], expected[:2]):
        assert distance(a, b) < 1e-5


@pytest.mark.parametrize(('dim', 'heads'), [(4, 4), (4, 1), (28, 7)])
def test_one_channel_a_group_or_a_head_and_odd_numbers(dim, heads):
    torch.manual_seed(0)
    check(SCSA(dim, head_num=heads, window_size=2), torch.randn(2, dim, 5, 9))


def test_used_twice_in_one_graph():
    torch.manual_seed(0)
    module, x = SCSA(8, window_size=3).to(DEVICE), torch.randn(2, 8, 7, 6, device=DEVICE)
    found = output_and_gradients(lambda x: by_triton(module)(by_triton(module)(x)), module, x)
    exact = copy.deepcopy(module).double()
    twice = output_and_gradients(lambda x: reference(exact)(reference(exact)(x)), exact, x.double())
    scale = max(e.abs().max() for e in twice[1:])
    for a, b in zip(found, twice):
        assert (a.double() - b).abs().max() / scale < 1e-5


def test_gradients_and_parameters_of_any_strides():
    """An expanded gradient, as `sum()` gives it; parameters that are views, as functions take."""
    torch.manual_seed(0)
    module, x = SCSA(8).to(DEVICE), torch.randn(2, 8, 7, 7, device=DEVICE)
    strided = {
        name: torch.stack([p.detach(), torch.full_like(p, 9.0)], -1)[..., 0].requires_grad_()
        for name, p in module.named_parameters()
    }
    assert not strided['norm_h.weight'].is_contiguous()
    with scsa.backend('triton'):
        out = torch.func.functional_call(module, strided, (x,))
    found = torch.autograd.grad(out.sum(), list(strided.values()))
    expected = torch.autograd.grad(reference(module)(x).sum(), list(module.parameters()))
    scale = max(e.abs().max() for e in expected)
    assert distance(out, reference(module)(x)) < 1e-5
    for a, b in zip(found, expected):
        assert (a - b).abs().max() / scale < 1e-5


def test_a_frozen_module_and_a_map_without_gradient():
    module, x = SCSA(8).to(DEVICE), torch.randn(1, 8, 7, 7, device=DEVICE)
    by_triton(module)(x).sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    module.requires_grad_(False).zero_grad()
    found = output_and_gradients(by_triton(module), module, x)
    assert found[1] is not None and all(gradient is None for gradient in found[2:])


# What follows runs on a GPU only: the real sizes, and that the kernels are what `auto` takes.


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason='needs a CUDA device')
class TestOnGPU:
    @pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
    @pytest.mark.parametrize('dtype', TOLERANCE)
    @pytest.mark.parametrize(('channels', 'size'), STAGES)
    def test_stages(self, channels, size, dtype, layout):
        x = torch.randn(16, channels, size, size).to(dtype).contiguous(memory_format=layout)
        check(SCSA(channels), x, TOLERANCE[dtype])

    @pytest.mark.parametrize('shape', [(1, 64, 200, 334), (2, 256, 100, 167), (1, 2048, 25, 42)])
    def test_detection_sizes(self, shape):
        check(SCSA(shape[1]), torch.randn(shape))

    def test_auto_can_take_the_kernels(self, monkeypatch):
        monkeypatch.setattr(dispatch, 'TRITON_IN_AUTO', True)
        calls = []
        run = triton_passes.run
        monkeypatch.setattr(triton_passes, 'run', lambda *a, **k: calls.append(a) or run(*a, **k))
        SCSA(8).cuda()(torch.randn(1, 8, 7, 7, device='cuda'))
        assert len(calls) >= 3

    def test_autocast_as_in_training(self):
        module = SCSA(64).cuda()
        x = torch.randn(4, 64, 56, 56, device='cuda').half()

        def autocast(x):
            with torch.autocast('cuda', dtype=torch.float16):
                return module(x)

        found = output_and_gradients(autocast, module, x)
        exact = copy.deepcopy(module).double()
        expected = output_and_gradients(reference(exact), exact, x.double())
        for a, b in zip(found[:2], expected[:2]):
            assert a.dtype == torch.float16 and distance(a, b) < 2e-3

    def test_in_a_cuda_graph(self):
        module, x = SCSA(64).cuda(), torch.randn(4, 64, 28, 28, device='cuda')
        graphed = torch.cuda.make_graphed_callables(module, (x.clone().requires_grad_(),))
        assert torch.equal(graphed(x), module(x))

    def test_each_replay_of_a_graph_draws_its_own_dropout(self):
        module, x = SCSA(64, attn_drop_ratio=0.5).cuda(), torch.randn(2, 64, 14, 14, device='cuda')
        with torch.no_grad():
            torch.cuda.synchronize()
            graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
            with torch.cuda.stream(stream):
                module(x)  # compiles the kernels
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                out = module(x)
            graph.replay()
            first = out.clone()
            graph.replay()
        assert not torch.equal(out, first)

    def test_a_training_step_in_a_cuda_graph(self):
        module, x = SCSA(64).cuda(), torch.randn(4, 64, 28, 28, device='cuda')
        expected = output_and_gradients(module, module, x)
        graphed = torch.cuda.make_graphed_callables(
            copy.deepcopy(module), (x.clone().requires_grad_(),)
        )
        for a, b in zip(output_and_gradients(graphed, graphed, x), expected):
            assert distance(a, b) < 1e-6

    def test_without_triton_the_eager_path_is_taken(self, monkeypatch):
        monkeypatch.setattr(dispatch, 'TRITON_IN_AUTO', True)
        monkeypatch.setattr(dispatch, 'triton_version', lambda: ())
        monkeypatch.setattr(triton_passes, 'run', None)
        module, x = SCSA(16).cuda(), torch.randn(2, 16, 14, 14, device='cuda')
        expected = output_and_gradients(reference(module), module, x)
        for a, b in zip(output_and_gradients(module, module, x)[:2], expected[:2]):
            assert distance(a, b) < 1e-4

    def test_two_processes_give_the_gradients_of_one(self, tmp_path):
        if torch.cuda.device_count() < 2:
            pytest.skip('needs two GPUs')
        mp.spawn(half_a_batch, (str(tmp_path / 'store'), str(tmp_path / 'grads')), nprocs=2)
        found = torch.load(tmp_path / 'grads')
        expected = parameter_gradients(*a_batch('cuda'))
        assert distance(found.cuda(), expected) < 1e-5

    def test_on_another_device(self):
        if torch.cuda.device_count() < 2:
            pytest.skip('needs two GPUs')
        module = SCSA(16).to('cuda:1')
        x = torch.randn(2, 16, 14, 14, device='cuda:1')
        assert distance(module(x), reference(module)(x)) < 1e-5


def a_batch(device):
    torch.manual_seed(0)
    module, x = SCSA(16).to(device), torch.randn(4, 16, 28, 20)
    return module, x.to(device)


def parameter_gradients(module, x):
    module(x).square().mean().backward()
    return torch.cat([p.grad.flatten() for p in module.parameters()])


def half_a_batch(rank, file, out):
    """One of two processes, each with a GPU of its own."""
    torch.cuda.set_device(rank)
    dist.init_process_group('nccl', init_method=f'file://{file}', rank=rank, world_size=2)
    module, x = a_batch(f'cuda:{rank}')
    module = torch.nn.parallel.DistributedDataParallel(module, device_ids=[rank])
    gradients = parameter_gradients(module, x[2 * rank :][:2])
    if rank == 0:
        torch.save(gradients.cpu(), out)
    dist.destroy_process_group()

"""Keys, defaults, errors, odd maps, memory formats, symmetries."""

import inspect
from functools import partial

import pytest
import torch
from numerics import distance, randomise

from scsa import PCSA, SCSA, SMSA
from scsa.attention.variants import ParallelSCSA, PCSABeforeSMSA, UnsharedSCSA

PUBLISHED_KEYS = [
    'local_dwc.weight', 'local_dwc.bias', 'global_dwc_s.weight', 'global_dwc_s.bias',
    'global_dwc_m.weight', 'global_dwc_m.bias', 'global_dwc_l.weight', 'global_dwc_l.bias',
    'norm_h.weight', 'norm_h.bias', 'norm_w.weight', 'norm_w.bias', 'norm.weight', 'norm.bias',
    'q.weight', 'k.weight', 'v.weight',
]  # fmt: skip


def test_keys_shapes_and_parameter_count_are_the_published_ones():
    state = SCSA(32).state_dict()
    assert list(state) == PUBLISHED_KEYS
    assert state['local_dwc.weight'].shape == (8, 1, 3)
    assert state['global_dwc_l.weight'].shape == (8, 1, 9)
    assert state['q.weight'].shape == (32, 1, 1, 1)
    for dim in (32, 64, 512):
        assert sum(p.numel() for p in SCSA(dim).parameters()) == 16 * dim
    assert {'q.bias', 'k.bias', 'v.bias'} <= set(SCSA(32, qkv_bias=True).state_dict())
    recombined = SCSA(32, down_sample_mode='recombination').state_dict()
    assert recombined['conv_d.weight'].shape == (32, 32 * 49, 1, 1)
    assert list(SCSA(32, window_size=-1, down_sample_mode='recombination').state_dict()) == (
        PUBLISHED_KEYS
    )


def test_arguments_and_defaults_are_the_contract():
    parameters = inspect.signature(SCSA).parameters
    assert {name: p.default for name, p in parameters.items()} == dict(
        dim=inspect.Parameter.empty,
        head_num=1,
        window_size=7,
        group_kernel_sizes=(3, 5, 7, 9),
        qkv_bias=False,
        down_sample_mode='avg_pool',
        attn_drop_ratio=0.0,
        gate_layer='sigmoid',
        device=None,
        dtype=None,
    )


@pytest.mark.parametrize(
    'build',
    [
        *(
            partial(SCSA, qkv_bias=True, down_sample_mode=mode)
            for mode in ('avg_pool', 'recombination')
        ),
        SMSA,
        PCSA,
        PCSABeforeSMSA,
        ParallelSCSA,
        UnsharedSCSA,
    ],
)
def test_device_and_type_reach_every_parameter(build):
    torch.manual_seed(3)
    module = build(16, device='cpu', dtype=torch.float64)
    assert {p.dtype for p in module.parameters()} == {torch.float64}
    assert module(torch.randn(1, 16, 8, 8, dtype=torch.float64)).dtype == torch.float64
    assert all(p.is_meta for p in build(16, device='meta').parameters())
    torch.manual_seed(3)
    same = build(16)
    torch.manual_seed(3)
    assert all(
        torch.equal(p, q)
        for p, q in zip(build(16, dtype=torch.float32).parameters(), same.parameters())
    )


def test_a_config_may_give_the_kernel_sizes_as_a_list():
    assert SCSA(16, group_kernel_sizes=[3, 5, 7, 9]).group_kernel_sizes == (3, 5, 7, 9)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(dim=30), r'dim=30 is not divisible by the 4 kernel groups \(3, 5, 7, 9\)'),
        (dict(dim=0), 'dim=0 is not divisible by the 4 kernel groups'),
        (dict(dim=16, head_num=3), 'dim=16 is not divisible by head_num=3'),
        (dict(dim=16, head_num=0), 'dim=16 is not divisible by head_num=0'),
        (dict(dim=16, group_kernel_sizes=(3, 4, 7, 9)), 'kernel sizes are odd and positive'),
        (dict(dim=16, group_kernel_sizes=(3, 5, 7)), 'has 3 entries'),
        (dict(dim=16, window_size=0), 'window_size=0'),
        (dict(dim=16, window_size=7.0), r'window_size=7\.0'),
        (dict(dim=16, down_sample_mode='avg'), "'avg' is unknown; use one of .*'recombination'"),
        (dict(dim=16, gate_layer='tanh'), "'tanh' is unknown; use one of .*'softmax'"),
        (dict(dim=16, attn_drop_ratio=1.0), r'attn_drop_ratio=1\.0 is not in'),
    ],
)
def test_wrong_arguments_are_refused_by_saying_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        SCSA(**arguments)


@pytest.mark.parametrize('kind', [SCSA, SMSA, PCSA])
@pytest.mark.parametrize(
    ('shape', 'message'),
    [
        ((2, 49, 16), r'\(B, C, H, W\), got a tensor of 3 dimensions'),
        ((2, 15, 8, 8), 'dim=16 channels, got a map of 15 channels'),
        ((2, 16, 0, 8), 'at least one pixel, got a map of 0x8'),
    ],
)
def test_wrong_inputs_are_refused_at_first_use(kind, shape, message):
    with pytest.raises(ValueError, match=message):
        kind(16)(torch.zeros(shape))


@pytest.mark.parametrize('mode', ['avg_pool', 'max_pool', 'recombination'])
@pytest.mark.parametrize('size', [(1, 1), (3, 20), (6, 6), (20, 2)])
def test_a_map_smaller_than_the_window_is_one_window(mode, size):
    module = randomise(SCSA(16, down_sample_mode=mode)).double()
    x = torch.randn(2, 16, *size, dtype=torch.float64, requires_grad=True)
    out = module(x)
    assert out.shape == x.shape
    out.sum().backward()
    assert x.grad.isfinite().all()
    if mode == 'avg_pool':
        # One window of the size of the map: what a window of exactly that size gives.
        side = (min(7, size[0]), min(7, size[1]))
        if side[0] == side[1]:
            clamped = SCSA(16, window_size=side[0]).double()
            clamped.load_state_dict(module.state_dict())
            assert distance(out, clamped(x)) < 1e-12


def test_rows_and_columns_that_fill_no_window_still_get_their_gates():
    module = randomise(SCSA(16)).double()
    x = torch.randn(1, 16, 20, 13, dtype=torch.float64)
    assert (module(x)[:, :, 14:, 7:] != 0).all()


def test_every_image_is_alone():
    module = randomise(SCSA(32)).double()
    x = torch.randn(4, 32, 14, 15, dtype=torch.float64)
    for i in range(4):
        assert distance(module(x)[i : i + 1], module(x[i : i + 1])) < 1e-12


def test_transposed_input_with_swapped_norms_gives_the_transposed_output():
    module = randomise(SCSA(32)).double()
    x = torch.randn(2, 32, 21, 15, dtype=torch.float64)
    swapped = SCSA(32).double()
    names = {'norm_h': 'norm_w', 'norm_w': 'norm_h'}
    swapped.load_state_dict(
        {
            '.'.join([names.get(key.split('.')[0], key.split('.')[0]), key.split('.')[1]]): value
            for key, value in module.state_dict().items()
        }
    )
    expected = module(x).transpose(2, 3)
    assert distance(swapped(x.transpose(2, 3)), expected) < 1e-12
    assert distance(module(x.transpose(2, 3)), expected) > 1e-3, 'the norms make a difference'


@pytest.mark.parametrize('grad', [False, True])
def test_memory_formats_are_kept(grad):
    module = randomise(SCSA(32))
    x = torch.randn(2, 32, 14, 15)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        y = x.to(memory_format=memory_format).requires_grad_(grad)
        assert module(y).is_contiguous(memory_format=memory_format)
        assert distance(module(y), module(x)) < 1e-6


def test_the_type_of_the_map_is_kept_under_autocast():
    module = randomise(SCSA(32))
    x = torch.randn(2, 32, 14, 15)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert module(x.bfloat16()).dtype == torch.bfloat16
        assert distance(module(x.bfloat16()).float(), module(x)) < 3e-2


def test_the_bare_module_starts_as_pytorch_does():
    torch.manual_seed(0)
    q = torch.cat([SCSA(512).q.weight.flatten() for _ in range(8)])
    # Kaiming-uniform with a = √5 on a fan-in of 1: uniform in ±1.
    assert q.abs().max() <= 1 and abs(q.var().item() - 1 / 3) < 0.02
    module = SCSA(64)
    for norm in (module.norm, module.norm_h, module.norm_w):
        assert (norm.weight == 1).all() and (norm.bias == 0).all()


def test_train_and_eval_return_the_module_and_repr_names_the_options():
    module = SCSA(16, head_num=2)
    assert module.eval() is module and module.train() is module
    assert 'head_num=2' in repr(module) and 'group_kernel_sizes=(3, 5, 7, 9)' in repr(module)

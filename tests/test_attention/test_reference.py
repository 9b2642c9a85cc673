"""The module against the step-by-step reference: outputs and all gradients, every option."""

import random

import pytest
import torch
from numerics import distance, randomise

from scsa.attention import PCSA, SCSA, SMSA, scsa_reference


def draw_case(seed):
    """A random configuration and a map that the published module accepts too."""
    rng = random.Random(seed)
    window = rng.choice([7, 7, 7, 1, 2, 3, 4, 5, -1])
    least = max(window, 2)  # torch refuses to normalise a single value, in a strip of 4 channels
    config = dict(
        dim=rng.choice([4, 8, 12, 16, 32, 64]),
        window_size=window,
        group_kernel_sizes=rng.choice([(3, 5, 7, 9), (3, 5, 7, 9), (1, 3, 5, 7), (9, 3, 3, 5)]),
        qkv_bias=rng.random() < 0.5,
        down_sample_mode=rng.choice(['avg_pool', 'max_pool', 'recombination']),
        gate_layer=rng.choice(['sigmoid', 'softmax']),
    )
    heads = [h for h in (1, 2, 4, 8) if config['dim'] % h == 0]
    config['head_num'] = rng.choice(heads)
    shape = (
        rng.randint(1, 3),
        config['dim'],
        least + rng.randint(0, 2 * least + 5),
        least + rng.randint(0, 2 * least + 5),
    )
    return config, shape


def outputs_and_gradients(forward, module, x):
    module.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    out = forward(x)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).sin().view_as(out)
    (out * weight).sum().backward()
    grads = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {'output': out.detach(), 'input': x.grad, **grads}


@pytest.mark.parametrize(('dtype', 'bar'), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize('seed', range(200))
def test_module_gives_what_the_reference_gives(seed, dtype, bar):
    config, shape = draw_case(seed)
    torch.manual_seed(seed)
    module = randomise(SCSA(**config)).double()
    x = torch.randn(shape, dtype=torch.float64)
    expected = outputs_and_gradients(lambda x: scsa_reference(module, x), module, x)
    module = module.to(dtype)
    found = outputs_and_gradients(module, module, x.to(dtype))
    assert found.keys() == expected.keys()
    assert distance(found['output'].double(), expected['output']) <= bar, config
    # A gradient that is a sum which cancels (a key bias moves a whole row of the softmax) has no
    # relative accuracy; all are measured against the gradients as a whole.
    if dtype is torch.float64:
        scale = torch.cat([g.flatten() for g in expected.values()]).norm()
        for name, value in expected.items():
            assert (found[name] - value).norm() <= bar * max(scale, value.norm()), (name, config)


def test_gradients_of_float32_over_all_parameters():
    for seed in range(0, 200, 5):
        config, shape = draw_case(seed)
        torch.manual_seed(seed)
        module = randomise(SCSA(**config)).double()
        x = torch.randn(shape, dtype=torch.float64)
        expected = outputs_and_gradients(lambda x: scsa_reference(module, x), module, x)  # noqa: B023
        module = module.float()
        found = outputs_and_gradients(module, module, x.float())
        together = [
            torch.cat([d[k].double().flatten() for k in expected]) for d in (found, expected)
        ]
        assert distance(*together) <= 1e-5, config


def test_training_mode_without_dropout_is_the_same():
    module = randomise(SCSA(16)).double()
    x = torch.randn(2, 16, 15, 14, dtype=torch.float64)
    assert distance(module.train()(x), module.eval()(x)) == 0


def test_dropout_acts_in_training_only_and_keeps_the_expectation():
    module = randomise(SCSA(16, attn_drop_ratio=0.3)).double()
    x = torch.randn(1, 16, 14, 14, dtype=torch.float64)
    plain = randomise(SCSA(16)).double()
    plain.load_state_dict(module.state_dict())
    assert distance(module.eval()(x), plain.eval()(x)) == 0
    module.train()
    assert distance(module(x), module(x)) > 0
    with torch.no_grad():
        mean = torch.stack([module(x) for _ in range(3000)]).mean(0)
    assert distance(mean, plain(x)) < 5e-2


def test_scsa_is_pcsa_after_smsa_and_their_keys_are_its_keys():
    for options in (dict(), dict(qkv_bias=True, down_sample_mode='recombination', window_size=2)):
        scsa, smsa, pcsa = randomise(SCSA(16, **options)), SMSA(16), PCSA(16, **options)
        state = scsa.state_dict()
        assert set(state) == set(smsa.state_dict()) | set(pcsa.state_dict())
        smsa.load_state_dict({key: state[key] for key in smsa.state_dict()})
        pcsa.load_state_dict({key: state[key] for key in pcsa.state_dict()})
        x = torch.randn(2, 16, 14, 21)
        assert distance(pcsa(smsa(x)), scsa(x)) < 1e-6

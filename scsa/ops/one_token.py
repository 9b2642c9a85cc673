r"""The channel attention of a map that is one token, as a power series.

With one token :math:`q_i k_j` is a product of two numbers, so that

.. math::
    a_i = \frac{\sum_j e^{q_i k_j} v_j}{\sum_j e^{q_i k_j}}, \qquad
    \sum_j e^{q_i k_j} v_j = \sum_p \frac{q_i^p}{p!} \sum_j k_j^p v_j

takes d times the number of terms, where the matrix takes :math:`d^2` exponentials. What one adds to
all k changes no softmax, so they are measured from the middle of their range: then the largest
:math:`|q_i k_j|` of common maps is below 1, and up to :data:`LIMIT` the terms left out are smaller
than what the type rounds (:math:`2^{16} / 16! < 4 \cdot 10^{-9}`, :math:`2^{32} / 32! < 10^{-25}`).
"""

from math import factorial
from typing import Tuple

import torch
from torch import Tensor

LIMIT = 2.0


def converges(q: Tensor, k: Tensor) -> bool:
    """Whether the series is exact for these (M, d); not so where one is not a number."""
    lowest, highest = torch.aminmax(k, dim=1)
    largest = (q.abs().amax(1) * (highest - lowest)).amax().detach()
    try:
        return float(largest) <= 2 * LIMIT
    except RuntimeError:  # a fake tensor, or one that is traced: what it holds is not known
        return False


def one_token_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ) v of (M, d) each, the scale of the attention in q."""
    powers_q, powers_k, weights = powers_of(q, k)
    moments = torch.bmm(with_one(v), powers_k.transpose(1, 2))  # (M, 2, P)
    above, below = torch.bmm(moments * weights, powers_q).unbind(1)
    return above / below


def one_token_backward(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, grad_a: Tensor
) -> Tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, given ``a`` and its gradient; all (M, d)."""
    powers_q, powers_k, weights = powers_of(q, k)
    moments = torch.bmm(with_one(v), powers_k.transpose(1, 2))
    # The derivative of q^p / p! is the power before it.
    slope = torch.bmm(moments[:, :, 1:] * weights[:-1], powers_q[:, :-1])
    below = torch.bmm(moments[:, 1:] * weights, powers_q)[:, 0]
    grad_q = grad_a * (slope[:, 0] - a * slope[:, 1]) / below
    g = grad_a / below
    d = torch.stack([g, g * q, g * q * a], 1)
    d = torch.bmm(torch.bmm(d, powers_q.transpose(1, 2)) * weights, powers_k)
    return grad_q, v * d[:, 1] - d[:, 2], d[:, 0]


def powers_of(q: Tensor, k: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """The powers (M, P, d) of q and of k, from 0 up, and one over the factorials (P)."""
    count = 16 if q.dtype == torch.float32 else 32
    lowest, highest = torch.aminmax(k, dim=1, keepdim=True)
    base = torch.cat([q, k - (lowest + highest) / 2])
    powers = base.new_empty(len(base), count, base.size(1))
    powers[:, 0] = 1
    powers[:, 1] = base
    known = 2
    while known < count:
        half = powers[:, known // 2]
        torch.mul(powers[:, :known], (half * half).unsqueeze(1), out=powers[:, known : 2 * known])
        known *= 2
    weights = base.new_tensor([1 / factorial(p) for p in range(count)])
    return *powers.split(len(q)), weights


def with_one(v: Tensor) -> Tensor:
    """(M, d) to (M, 2, d): what is summed above and below the line."""
    return torch.stack([v, torch.ones_like(v)], 1)

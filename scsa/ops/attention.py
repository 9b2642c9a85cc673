r"""The channel attention where only its mean over the tokens is asked for, and its gradients.

With :math:`A = \operatorname{softmax}(q k^\top)`, v the mean of the values, one number a channel,
and g the gradient of :math:`a = A v`,

.. math::
    dv = A^\top g, \qquad dq = g \odot (D k), \qquad dk = D^\top (g \odot q), \qquad
    D_{ij} = A_{ij} (v_j - a_i)

so that the matrices are made for some images at a time, as many as a cache holds, and never kept.
One token needs no matrix: see :mod:`.one_token`.
"""

from typing import Iterator, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .one_token import converges, one_token_attention, one_token_backward

IN_CACHE = 2**18  # values of A at a time: a MiB
MANY = 512  # channels of a head
MANY_OF_ONE = 256  # likewise, where the map is one token


def mean_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ) v.

    Args:
        q: (M, d, N), with the scale of the attention in it; M is images times heads.
        k: (M, d, N).
        v: (M, d).

    Returns:
        (M, d).
    """
    if one_token(q, k):
        return one_token_attention(q.squeeze(2), k.squeeze(2), v)
    if one_kernel(q):
        v = v.unsqueeze(2).expand(q.shape).contiguous()
        q, k, v = q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)[:, 0, :, 0]
    if len(q) > at_a_time(q):
        return torch.cat([mean_attention(*part) for part in parts(q, k, v)])
    # Row times matrix: for matrix times column the CPU's library takes several times as long.
    return torch.bmm(v.unsqueeze(1), attention(q, k).transpose(1, 2)).squeeze(1)


def mean_attention_backward(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, grad_a: Tensor
) -> Tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v.

    Args:
        q: (M, d, N), with the scale of the attention in it.
        k: (M, d, N).
        v: (M, d).
        a: (M, d), what :func:`mean_attention` gave for these.
        grad_a: The gradient of that.
    """
    if one_token(q, k):
        grad_q, grad_k, grad_v = one_token_backward(q.squeeze(2), k.squeeze(2), v, a, grad_a)
        return grad_q.unsqueeze(2), grad_k.unsqueeze(2), grad_v
    if one_kernel(q):
        with torch.enable_grad():
            q, k, v = (t.detach().requires_grad_() for t in (q, k, v))
            return torch.autograd.grad(mean_attention(q, k, v), (q, k, v), grad_a)
    if len(q) > at_a_time(q):
        found = [mean_attention_backward(*part) for part in parts(q, k, v, a, grad_a)]
        return tuple(torch.cat(d) for d in zip(*found))
    v, a, g = v.unsqueeze(1), a.unsqueeze(2), grad_a.unsqueeze(1)
    attn = attention(q, k)
    grad_v = torch.bmm(g, attn).squeeze(1)
    d = torch.mul(v - a, attn, out=attn)  # no other than grad_v takes A
    grad_q = torch.bmm(k.transpose(1, 2), d.transpose(1, 2)) * g  # (M, N, d)
    grad_k = torch.bmm(q.transpose(1, 2) * g, d)
    return grad_q.transpose(1, 2), grad_k.transpose(1, 2), grad_v


def one_token(q: Tensor, k: Tensor) -> bool:
    """Whether the series of :mod:`.one_token` is to take the place of the matrices."""
    wide = not q.is_cuda and q.size(1) >= MANY_OF_ONE and q.size(2) == 1
    return wide and converges(q.squeeze(2), k.squeeze(2))


def one_kernel(q: Tensor) -> bool:
    """Whether PyTorch's kernel for all steps is faster, though it takes the mean last."""
    return q.is_cuda or (q.size(1) >= MANY and q.size(2) == 1)


def attention(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q kᵀ)."""
    product = torch.mul if q.size(2) == 1 else torch.bmm  # which is slow at columns times rows
    attn = product(q, k.transpose(1, 2))
    return torch.softmax(attn, 2, out=attn)


def at_a_time(q: Tensor) -> int:
    """How many matrices: two at least, for PyTorch multiplies a single one in a slower way."""
    return max(2, IN_CACHE // q.size(1) ** 2)


def parts(*tensors: Tensor) -> Iterator[Tuple[Tensor, ...]]:
    """Some matrices at a time."""
    return zip(*(t.split(at_a_time(tensors[0])) for t in tensors))

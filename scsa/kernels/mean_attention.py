r"""The channel attention where only its mean over the tokens is asked for, and its gradients.

With :math:`A = \operatorname{softmax}(q k^\top)`, v the mean of the values, one number a channel,
and g the gradient of :math:`a = A v`,

.. math::
    dv = A^\top g, \qquad dq = g \odot (D k), \qquad dk = D^\top (g \odot q), \qquad
    D_{ij} = A_{ij} (v_j - a_i)

so that the matrices are made for some images at a time, as many as a cache holds, and never kept.
"""

from typing import Iterator, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Values of A at a time: a MiB, which no allocator returns to the system between two calls.
IN_CACHE = 2**18
MANY = 512  # channels of a head


def mean_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ) v.

    Args:
        q: (M, d, N), with the scale of the attention in it; M is images times heads.
        k: (M, d, N).
        v: (M, d).

    Returns:
        (M, d).
    """
    if q.is_cuda or q.size(1) >= MANY:
        # One kernel for all steps is faster here than one for each, though it takes the mean last.
        v = v.unsqueeze(2).expand(q.shape).contiguous()
        q, k, v = q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)[:, 0, :, 0]
    v = v.unsqueeze(1)
    a = torch.empty_like(v)
    for attn, v, a_part in in_parts(q, k, v, a):
        # Row times matrix: for matrix times column the CPU's library takes several times as long.
        torch.bmm(v, attn.transpose(1, 2), out=a_part)
    return a.squeeze(1)


def mean_attention_gradients(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, d_a: Tensor
) -> Tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v.

    Args:
        q: (M, d, N), with the scale of the attention in it.
        k: (M, d, N).
        v: (M, d).
        a: (M, d), what :func:`mean_attention` gave for these.
        d_a: The gradient of that.
    """
    if q.is_cuda or (q.size(1) >= MANY and q.size(2) == 1):  # as above; more tokens are slow there
        with torch.enable_grad():
            q, k, v = (t.detach().requires_grad_() for t in (q, k, v))
            return torch.autograd.grad(mean_attention(q, k, v), (q, k, v), d_a)
    v, a, g = v.unsqueeze(1), a.unsqueeze(2), d_a.unsqueeze(1)
    k_rows, gq_rows = k.transpose(1, 2), q.transpose(1, 2) * g  # (M, N, d)
    d_q, d_k, d_v = (t.new_empty(t.shape) for t in (k_rows, gq_rows, v))
    room = None
    for attn, *parts in in_parts(q, k, k_rows, gq_rows, v, a, g, d_q, d_k, d_v):
        k_rows, gq_rows, v, a, g_part, d_q_part, d_k_part, d_v_part = parts
        torch.bmm(g_part, attn, out=d_v_part)
        room = torch.empty_like(attn) if room is None else room[: len(attn)]
        difference = torch.sub(v, a, out=room).mul_(attn)
        torch.bmm(k_rows, difference.transpose(1, 2), out=d_q_part)
        torch.bmm(gq_rows, difference, out=d_k_part)
    return (d_q * g).transpose(1, 2), d_k.transpose(1, 2), d_v.squeeze(1)


def in_parts(q: Tensor, k: Tensor, *rest: Tensor) -> Iterator[Sequence[Tensor]]:
    """softmax(q kᵀ) of some matrices at a time, all in the same memory, and these of the rest."""
    count, d, tokens = q.shape
    step = max(1, IN_CACHE // d**2)
    room = q.new_empty(min(step, count), d, d)
    product = torch.mul if tokens == 1 else torch.bmm  # which is slow at columns times rows
    for q, k, *rest in zip(*(t.split(step) for t in (q, k, *rest))):
        attn = room if len(q) == len(room) else room[: len(q)]
        product(q, k.transpose(1, 2), out=attn)
        yield torch.softmax(attn, 2, out=attn), *rest

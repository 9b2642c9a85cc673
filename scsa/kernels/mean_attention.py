r"""The channel attention where only its mean over the tokens is asked for, and its gradients.

With :math:`A = \operatorname{softmax}(q k^\top)`, v the mean of the values, one number a channel,
and g the gradient of :math:`a = A v`,

.. math::
    dv = A^\top g, \qquad dq = g \odot (D k), \qquad dk = D^\top (g \odot q), \qquad
    D_{ij} = A_{ij} (v_j - a_i)

so that the matrices are made for some images at a time, as many as a cache holds, and never kept.
"""

from typing import Iterator, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Values of A at a time: half a MiB, which no allocator returns to the system between two calls.
IN_CACHE = 2**17
MANY = 512  # channels of a head


def mean_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ) v.

    Args:
        q: (B, heads, d, N), with the scale of the attention in it.
        k: (B, heads, d, N).
        v: (B, heads, d).

    Returns:
        (B, heads, d).
    """
    batch, heads, d, _ = q.shape
    if q.is_cuda or d >= MANY:
        # One kernel for all steps is faster here than one for each, though it takes the mean last.
        v = v.unsqueeze(3).expand(q.shape).contiguous()
        return F.scaled_dot_product_attention(q, k, v, scale=1.0).select(3, 0)
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.reshape(-1, 1, d)
    a = torch.empty_like(v)
    for part, attn in attention(q, k):
        # Row times matrix: for matrix times column the CPU's library takes several times as long.
        torch.bmm(v[part], attn.transpose(1, 2), out=a[part])
    return a.view(batch, heads, d)


def mean_attention_gradients(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, d_a: Tensor
) -> Tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v.

    Args:
        q: (B, heads, d, N), with the scale of the attention in it.
        k: (B, heads, d, N).
        v: (B, heads, d).
        a: (B, heads, d), what :func:`mean_attention` gave for these.
        d_a: The gradient of that.
    """
    if q.is_cuda or (q.size(2) >= MANY and q.size(3) == 1):  # as above; more tokens are slow there
        with torch.enable_grad():
            q, k, v = (t.detach().requires_grad_() for t in (q, k, v))
            return torch.autograd.grad(mean_attention(q, k, v), (q, k, v), d_a)
    shape, d = q.shape, q.size(2)
    q, k, v, g = q.flatten(0, 1), k.flatten(0, 1), v.reshape(-1, 1, d), d_a.reshape(-1, 1, d)
    a = a.reshape(-1, d, 1)
    k_rows, gq_rows = k.transpose(1, 2), q.transpose(1, 2) * g  # (B heads, N, d)
    d_q, d_k, d_v = (t.new_empty(t.shape) for t in (k_rows, gq_rows, v))
    room = None
    for part, attn in attention(q, k):
        torch.bmm(g[part], attn, out=d_v[part])
        room = torch.empty_like(attn) if room is None else room[: len(attn)]
        difference = torch.sub(v[part], a[part], out=room).mul_(attn)
        torch.bmm(k_rows[part], difference.transpose(1, 2), out=d_q[part])
        torch.bmm(gq_rows[part], difference, out=d_k[part])
    d_q, d_k = (d_q * g).transpose(1, 2), d_k.transpose(1, 2)
    return d_q.reshape(shape), d_k.reshape(shape), d_v.view(shape[:3])


def attention(q: Tensor, k: Tensor) -> Iterator[Tuple[slice, Tensor]]:
    """softmax(q kᵀ) of (M, d, N), some matrices at a time, all in the same memory."""
    count, d, tokens = q.shape
    step = max(1, IN_CACHE // d**2)
    attn = q.new_empty(min(step, count), d, d)
    product = torch.mul if tokens == 1 else torch.bmm  # which is slow at columns times rows
    for start in range(0, count, step):
        part = slice(start, start + step)
        some = attn[: count - start]
        product(q[part], k[part].transpose(1, 2), out=some)
        yield part, torch.softmax(some, 2, out=some)

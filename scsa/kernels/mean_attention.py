r"""The channel attention where only its mean over the tokens is asked for, and its gradients.

With :math:`A = \operatorname{softmax}(q k^\top)`, v the mean of the values, one number a channel,
and g the gradient of :math:`a = A v`,

.. math::
    dv = A^\top g, \qquad dq = g \odot \bigl(A (v \odot k) - a \odot (A k)\bigr), \qquad
    dk = v \odot A^\top (g \odot q) - A^\top (g \odot a \odot q)

so that beside A itself there are products of A with a few columns only. A is made for some images
at a time, as many as a cache holds, and never kept.
"""

from typing import Iterator, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Values of A at a time: half a MiB, which no allocator returns to the system between two calls.
IN_CACHE, ON_GPU = 2**17, 2**25
LARGE = 8 * IN_CACHE  # values of all A


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
    if q.is_cuda or batch * heads * d * d > LARGE:
        # Many channels: one kernel for all steps is faster than one for each, though it takes the
        # mean last.
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
    shape, tokens = q.shape, q.size(3)
    q, k = q.flatten(0, 1), k.flatten(0, 1)
    v, a, g = (t.reshape(-1, shape[2], 1) for t in (v, a, d_a))
    left = torch.cat([v * k, k], 2).transpose(1, 2).contiguous()  # (B heads, 2 N, d): rows
    right = torch.cat([g * q, g * a * q, g], 2).transpose(1, 2).contiguous()
    a_left, right_a = torch.empty_like(left), torch.empty_like(right)
    for part, attn in attention(q, k):
        torch.bmm(left[part], attn.transpose(1, 2), out=a_left[part])
        torch.bmm(right[part], attn, out=right_a[part])
    a_vk, a_k = a_left.transpose(1, 2).split(tokens, 2)
    gq_a, gaq_a, d_v = right_a.transpose(1, 2).split([tokens, tokens, 1], 2)
    d_q, d_k = g * (a_vk - a * a_k), v * gq_a - gaq_a
    return d_q.view(shape), d_k.view(shape), d_v.reshape(shape[:3])


def attention(q: Tensor, k: Tensor) -> Iterator[Tuple[slice, Tensor]]:
    """softmax(q kᵀ) of (M, d, N), some matrices at a time, all in the same memory."""
    count, d, tokens = q.shape
    step = max(1, (ON_GPU if q.is_cuda else IN_CACHE) // d**2)
    logits = q.new_empty(min(step, count), d, d)
    attn = torch.empty_like(logits)
    product = torch.mul if tokens == 1 else torch.bmm  # which is slow at columns times rows
    for start in range(0, count, step):
        part = slice(start, start + step)
        size = min(step, count - start)
        product(q[part], k[part].transpose(1, 2), out=logits[:size])
        yield part, torch.softmax(logits[:size], 2, out=attn[:size])

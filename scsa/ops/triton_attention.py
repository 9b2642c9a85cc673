"""The Triton kernels from the tokens to the channel gate, forward and then backward.

A program has a block of BI channels of one head and image; the other channels come in blocks of BJ,
backward of BI, and the tokens in blocks of BN: the attention is never held whole. What the tensors
are, `fused.py` says.
"""
# ruff: noqa: N803, N806 - capitals are sizes, as in the shapes of fused.py

import triton
import triton.language as tl

from .triton_strips import load_strips


@triton.jit
def load_tokens(y, c, n, last, C, N, mean, rstd, norm_weight, norm_bias):
    """(BC, BN) of the normalised tokens of one image, zero outside; channels up to `last`."""
    mask = (c < last)[:, None] & (n < N)[None, :]
    tile = tl.load(y + c[:, None] * N + n[None, :], mask=mask, other=0.0)
    scale = tl.load(norm_weight + c, mask=c < last, other=0.0).to(tl.float32)
    shift = tl.load(norm_bias + c, mask=c < last, other=0.0).to(tl.float32)
    return tl.where(mask, (tile - mean) * rstd * scale[:, None] + shift[:, None], 0.0)


@triton.jit
def project(tile, c, n, last, N, weight, bias, BIAS: tl.constexpr):
    """q, k or v from tokens: one scale a channel, and a shift where there is one."""
    tile = tile * tl.load(weight + c, mask=c < last, other=0.0).to(tl.float32)[:, None]
    if BIAS:
        shift = tl.load(bias + c, mask=c < last, other=0.0).to(tl.float32)
        mask = (c < last)[:, None] & (n < N)[None, :]
        tile = tl.where(mask, tile + shift[:, None], 0.0)
    return tile


@triton.jit
def keep(seed, b, i, j, C, d, dropout):
    """(BI, BJ): what dropout multiplies the attention with, the same for the same places."""
    seed = tl.load(seed)
    place = (b.to(tl.int32) * C + i[:, None]) * d + j[None, :] % d
    return tl.where(tl.rand(seed, place) >= dropout, 1.0 / (1.0 - dropout), 0.0)


@triton.jit
def attention_kernel(
    y, y_stats, a, lse, gate, norm_weight, norm_bias, wq, wk, wv, bq, bk, bv,
    C, N, d, eps, scale, dropout, seed,
    BIAS: tl.constexpr, DROPOUT: tl.constexpr, BM: tl.constexpr,
    BI: tl.constexpr, BJ: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Y -> a, lse and sigmoid(a), for one image, one head and a block of its channels."""
    b = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * d
    last = first + d
    i = first + tl.program_id(2) * BI + tl.arange(0, BI)
    y += b * C * N

    M = C * N  # all values of an image
    total = 0.0
    for m0 in range(0, M, BM):
        m = m0 + tl.arange(0, BM)
        total += tl.sum(tl.load(y + m, mask=m < M, other=0.0))
    mean = total / M
    total = 0.0
    for m0 in range(0, M, BM):
        m = m0 + tl.arange(0, BM)
        off = tl.where(m < M, tl.load(y + m, mask=m < M, other=0.0) - mean, 0.0)
        total += tl.sum(off * off)
    rstd = 1.0 / tl.sqrt(total / M + eps)
    if (tl.program_id(1) == 0) & (tl.program_id(2) == 0):
        tl.store(y_stats + b * 2, mean)
        tl.store(y_stats + b * 2 + 1, rstd)

    peak = tl.full([BI], float('-inf'), tl.float32)  # the softmax is taken on the way
    norm = tl.zeros([BI], tl.float32)
    value = tl.zeros([BI], tl.float32)
    for j0 in range(0, d, BJ):
        j = first + j0 + tl.arange(0, BJ)
        scores = tl.zeros([BI, BJ], tl.float32)
        v = tl.zeros([BJ], tl.float32)
        for n0 in range(0, N, BN):
            n = n0 + tl.arange(0, BN)
            q = load_tokens(y, i, n, last, C, N, mean, rstd, norm_weight, norm_bias)
            q = project(q, i, n, last, N, wq, bq, BIAS)
            t = load_tokens(y, j, n, last, C, N, mean, rstd, norm_weight, norm_bias)
            k = project(t, j, n, last, N, wk, bk, BIAS)
            scores += tl.dot(q, tl.trans(k), input_precision='ieee')
            v += tl.sum(project(t, j, n, last, N, wv, bv, BIAS), 1)
        scores = tl.where((j < last)[None, :], scores * scale, float('-inf'))
        higher = tl.maximum(peak, tl.max(scores, 1))
        p = tl.exp(scores - higher[:, None])
        shrink = tl.exp(peak - higher)
        norm = norm * shrink + tl.sum(p, 1)
        if DROPOUT:
            p *= keep(seed, b, i, j, C, d, dropout)
        value = value * shrink + tl.sum(p * (v / N)[None, :], 1)
        peak = higher
    value = value / norm
    tl.store(a + b * C + i, value, mask=i < last)
    tl.store(lse + b * C + i, peak + tl.log(norm), mask=i < last)
    tl.store(gate + b * C + i, 1.0 / (1.0 + tl.exp(-value)), mask=i < last)


@triton.jit
def gate_gradient(d_c, gate, b, c, last, C, dot, SOFTMAX: tl.constexpr):
    """(BC): the gradient of the attention from that of the gate; `dot` is sum(d_c * gate)."""
    grad = tl.load(d_c + b * C + c, mask=c < last, other=0.0)
    value = tl.load(gate + b * C + c, mask=c < last, other=0.0)
    if SOFTMAX:
        return value * (grad - dot)
    return grad * value * (1.0 - value)


@triton.jit
def attention_grad_kernel(
    y, y_stats, a, lse, gate, d_c, d_t, partial, norm_weight, norm_bias, wq, wk, wv, bq, bk, bv,
    C, N, d, P, place, scale, dropout, seed,
    SOFTMAX: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr, BM: tl.constexpr,
    BI: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """d_c -> d_t, the gradient of the normalised tokens, and those of q, k, v in `partial`.

    For one image, one head and a block of its channels i, first as queries, then as keys. With
    A = softmax(S), a = A v and g the gradient of a: dS = A (g v' - g a), of which no more than a
    block is ever held.
    """
    b = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * d
    last = first + d
    i = first + tl.program_id(2) * BI + tl.arange(0, BI)
    y += b * C * N
    mean = tl.load(y_stats + b * 2)
    rstd = tl.load(y_stats + b * 2 + 1)
    dot = 0.0
    if SOFTMAX:
        for m0 in range(0, C, BM):
            m = m0 + tl.arange(0, BM)
            grad = tl.load(d_c + b * C + m, mask=m < C, other=0.0)
            dot += tl.sum(grad * tl.load(gate + b * C + m, mask=m < C, other=0.0))
    g_i = gate_gradient(d_c, gate, b, i, last, C, dot, SOFTMAX)
    a_i = tl.load(a + b * C + i, mask=i < last, other=0.0)
    lse_i = tl.load(lse + b * C + i, mask=i < last, other=float('inf'))

    s_q = tl.load(wq + i, mask=i < last, other=0.0).to(tl.float32)
    s_k = tl.load(wk + i, mask=i < last, other=0.0).to(tl.float32)
    s_v = tl.load(wv + i, mask=i < last, other=0.0).to(tl.float32)
    d_sq = tl.zeros([BI], tl.float32)
    d_sk = tl.zeros([BI], tl.float32)
    d_bq = tl.zeros([BI], tl.float32)
    d_bk = tl.zeros([BI], tl.float32)
    d_v = tl.zeros([BI], tl.float32)
    t_mean = tl.zeros([BI], tl.float32)
    for o0 in range(0, N, BN):  # a block of tokens of the result
        o = o0 + tl.arange(0, BN)
        d_q = tl.zeros([BI, BN], tl.float32)
        d_k = tl.zeros([BI, BN], tl.float32)
        d_v = tl.zeros([BI], tl.float32)
        for j0 in range(0, d, BI):
            j = first + j0 + tl.arange(0, BI)
            s_ij = tl.zeros([BI, BI], tl.float32)
            s_ji = tl.zeros([BI, BI], tl.float32)
            v_i = tl.zeros([BI], tl.float32)
            v_j = tl.zeros([BI], tl.float32)
            for n0 in range(0, N, BN):
                n = n0 + tl.arange(0, BN)
                t = load_tokens(y, i, n, last, C, N, mean, rstd, norm_weight, norm_bias)
                q_i = project(t, i, n, last, N, wq, bq, BIAS)
                k_i = project(t, i, n, last, N, wk, bk, BIAS)
                v_i += tl.sum(project(t, i, n, last, N, wv, bv, BIAS), 1)
                t = load_tokens(y, j, n, last, C, N, mean, rstd, norm_weight, norm_bias)
                q_j = project(t, j, n, last, N, wq, bq, BIAS)
                k_j = project(t, j, n, last, N, wk, bk, BIAS)
                v_j += tl.sum(project(t, j, n, last, N, wv, bv, BIAS), 1)
                s_ij += tl.dot(q_i, tl.trans(k_j), input_precision='ieee')
                s_ji += tl.dot(q_j, tl.trans(k_i), input_precision='ieee')
            g_j = gate_gradient(d_c, gate, b, j, last, C, dot, SOFTMAX)
            a_j = tl.load(a + b * C + j, mask=j < last, other=0.0)
            lse_j = tl.load(lse + b * C + j, mask=j < last, other=float('inf'))
            both = (i < last)[:, None] & (j < last)[None, :]
            p_ij = tl.where(both, tl.exp(s_ij * scale - lse_i[:, None]), 0.0)
            p_ji = tl.where(tl.trans(both), tl.exp(s_ji * scale - lse_j[:, None]), 0.0)
            w_ij = p_ij
            w_ji = p_ji
            if DROPOUT:
                w_ij = p_ij * keep(seed, b, i, j, C, d, dropout)
                w_ji = p_ji * keep(seed, b, j, i, C, d, dropout)
            ds_ij = g_i[:, None] * (w_ij * (v_j / N)[None, :] - p_ij * a_i[:, None])
            ds_ji = g_j[:, None] * (w_ji * (v_i / N)[None, :] - p_ji * a_j[:, None])
            t = load_tokens(y, j, o, last, C, N, mean, rstd, norm_weight, norm_bias)
            k_j = project(t, j, o, last, N, wk, bk, BIAS)
            q_j = project(t, j, o, last, N, wq, bq, BIAS)
            d_q += tl.dot(ds_ij, k_j, input_precision='ieee')
            d_k += tl.dot(tl.trans(ds_ji), q_j, input_precision='ieee')
            d_v += tl.sum(w_ji * g_j[:, None], 0)
        d_q *= scale
        d_k *= scale
        t = load_tokens(y, i, o, last, C, N, mean, rstd, norm_weight, norm_bias)
        d_sq += tl.sum(d_q * t, 1)
        d_sk += tl.sum(d_k * t, 1)
        d_bq += tl.sum(d_q, 1)  # beyond the last token k and q are zero, and so are these
        d_bk += tl.sum(d_k, 1)
        t_mean += tl.sum(t, 1) / N
        result = d_q * s_q[:, None] + d_k * s_k[:, None] + (d_v * s_v / N)[:, None]
        tl.store(
            d_t + (b * C + i[:, None]) * N + o[None, :],
            result,
            mask=(i < last)[:, None] & (o < N)[None, :],
        )
    partial += b * P + place + i
    tl.store(partial, d_sq, mask=i < last)
    tl.store(partial + C, d_sk, mask=i < last)
    tl.store(partial + 2 * C, d_v * t_mean, mask=i < last)
    tl.store(partial + 3 * C, d_bq, mask=i < last)
    tl.store(partial + 4 * C, d_bk, mask=i < last)
    tl.store(partial + 5 * C, d_v, mask=i < last)


@triton.jit
def tokens_grad_kernel(
    y, y_stats, d_t, partial, norm_weight, C, N, P, place, BC: tl.constexpr, BN: tl.constexpr
):
    """d_t -> the gradient of y, in place, and that of the norm in `partial`, for one image."""
    b = tl.program_id(0).to(tl.int64)
    y += b * C * N
    d_t += b * C * N
    partial += b * P + place
    mean = tl.load(y_stats + b * 2)
    rstd = tl.load(y_stats + b * 2 + 1)
    total = 0.0
    along = 0.0
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        scale = tl.load(norm_weight + c, mask=c < C, other=0.0).to(tl.float32)
        d_scale = tl.zeros([BC], tl.float32)
        d_shift = tl.zeros([BC], tl.float32)
        for n0 in range(0, N, BN):
            n = n0 + tl.arange(0, BN)
            normed = (load_strips(y, c, n, C, N, N) - mean) * rstd
            grad = load_strips(d_t, c, n, C, N, N)  # zero outside
            d_scale += tl.sum(grad * normed, 1)
            d_shift += tl.sum(grad, 1)
        total += tl.sum(d_shift * scale)
        along += tl.sum(d_scale * scale)
        tl.store(partial + c, d_scale, mask=c < C)
        tl.store(partial + C + c, d_shift, mask=c < C)
    total /= C * N
    along /= C * N
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        scale = tl.load(norm_weight + c, mask=c < C, other=0.0).to(tl.float32)
        for n0 in range(0, N, BN):
            n = n0 + tl.arange(0, BN)
            normed = (load_strips(y, c, n, C, N, N) - mean) * rstd
            grad = load_strips(d_t, c, n, C, N, N) * scale[:, None]
            tl.store(
                d_t + c[:, None] * N + n[None, :],
                (grad - total - normed * along) * rstd,
                mask=(c < C)[:, None] & (n < N)[None, :],
            )

"""The Triton kernels of SCSA. X is read three times forward, X and the gradient twice backward.

Tensors of the kernels, float32 but for the maps:

==========  ============  ========================================================================
x, out, …   (B, C, H, W)  maps of any strides; (b, c, h, w) strides are passed
strips      (B, C, H+W)   the means of the rows, then those of the columns
gates       (B, C, H+W)   a_h, then a_w
stats       (B, 2, 4, 2)  mean and 1/std of the norms of the two strips, by kernel group
y           (B, C, N)     tokens: N = rows * cols windows of height x width pixels
y_stats     (B, 2)        mean and 1/std of the norm of the tokens
a, lse, c   (B, C)        attention, logarithm of the sum of its softmax, channel gate
seed        (1)           int64, of the dropout
partial     (B, P)        gradients of all parameters, image by image, in the order of `fused.py`
==========  ============  ========================================================================

Sums over the batch are left to PyTorch, nothing is added atomically: two runs give the same bits.
Channels come in blocks of BC, a map's rows in blocks of BH; its whole width is one block BW.
"""
# ruff: noqa: N803, N806 - capitals are sizes, as in the shapes above

import triton
import triton.language as tl


@triton.jit
def offsets(c, h, w, sc, sh, sw):
    return c[:, None, None] * sc + h[None, :, None] * sh + w[None, None, :] * sw


@triton.jit
def inside(c, h, w, C, H, W):
    return (c < C)[:, None, None] & (h < H)[None, :, None] & (w < W)[None, None, :]


@triton.jit
def load_strips(base, c, i, C, size, length):
    """(BC, BI) of a strip of `size` values whose channels are `length` apart."""
    return tl.load(
        base + c[:, None] * length + i[None, :],
        mask=(c < C)[:, None] & (i < size)[None, :],
        other=0.0,
    )


@triton.jit
def strips_kernel(
    x, strips, C, H, W, sb, sc, sh, sw, BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr
):
    """X -> strips."""
    b = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    w = tl.arange(0, BW)
    x += b * sb
    strips += b * C * (H + W)
    columns = tl.zeros([BC, BW], tl.float32)
    for h0 in range(0, H, BH):
        h = h0 + tl.arange(0, BH)
        mask = inside(c, h, w, C, H, W)
        tile = tl.load(x + offsets(c, h, w, sc, sh, sw), mask=mask, other=0.0).to(tl.float32)
        columns += tl.sum(tile, 1)
        tl.store(
            strips + c[:, None] * (H + W) + h[None, :],
            tl.sum(tile, 2) / W,
            mask=(c < C)[:, None] & (h < H)[None, :],
        )
    tl.store(
        strips + c[:, None] * (H + W) + H + w[None, :],
        columns / H,
        mask=(c < C)[:, None] & (w < W)[None, :],
    )


@triton.jit
def of_group(g, p0, p1, p2, p3):
    p = p0
    if g == 1:
        p = p1
    if g == 2:
        p = p2
    if g == 3:
        p = p3
    return p


@triton.jit
def size_of_group(g, k0, k1, k2, k3):
    return tl.where(g == 0, k0, tl.where(g == 1, k1, tl.where(g == 2, k2, k3)))


@triton.jit
def convolve(strip, weight, bias, c, i, G, size, length, K):
    """(BC, BI): the convolution of a strip at the places `i`, channels `c` counted in the group."""
    u = tl.load(bias + c, mask=c < G, other=0.0).to(tl.float32)[:, None]
    u = u + tl.zeros([c.shape[0], i.shape[0]], tl.float32)
    for t in range(K):
        p = i + t - K // 2
        tap = tl.load(weight + c * K + t, mask=c < G, other=0.0).to(tl.float32)
        mask = (c < G)[:, None] & ((p >= 0) & (p < size))[None, :]
        u += tap[:, None] * tl.load(strip + c[:, None] * length + p[None, :], mask=mask, other=0.0)
    return u


@triton.jit
def gates_kernel(
    strips, gates, stats, w0, w1, w2, w3, b0, b1, b2, b3, weight_h, bias_h, weight_w, bias_w,
    C, H, W, k0, k1, k2, k3, eps,
    SOFTMAX: tl.constexpr, BC: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """Strips -> gates and stats, for one image, kernel group and strip."""
    b = tl.program_id(0).to(tl.int64)
    g = tl.program_id(1)
    s = tl.program_id(2)
    G = C // 4
    length = H + W
    size = tl.where(s == 0, H, W)
    weight = of_group(g, w0, w1, w2, w3)
    bias = of_group(g, b0, b1, b2, b3)
    K = size_of_group(g, k0, k1, k2, k3)
    gamma = weight_h
    beta = bias_h
    if s == 1:
        gamma = weight_w
        beta = bias_w
    start = (b * C + g * G) * length + s * H
    i = tl.arange(0, BI)

    total = 0.0
    for c0 in range(0, G, BC):
        c = c0 + tl.arange(0, BC)
        mask = (c < G)[:, None] & (i < size)[None, :]
        u = convolve(strips + start, weight, bias, c, i, G, size, length, K)
        total += tl.sum(tl.where(mask, u, 0.0))
    mean = total / (G * size)
    total = 0.0
    for c0 in range(0, G, BC):
        c = c0 + tl.arange(0, BC)
        mask = (c < G)[:, None] & (i < size)[None, :]
        u = convolve(strips + start, weight, bias, c, i, G, size, length, K) - mean
        total += tl.sum(tl.where(mask, u * u, 0.0))
    rstd = 1.0 / tl.sqrt(total / (G * size) + eps)
    tl.store(stats + ((b * 2 + s) * 4 + g) * 2, mean)
    tl.store(stats + ((b * 2 + s) * 4 + g) * 2 + 1, rstd)

    for c0 in range(0, G, BC):
        c = c0 + tl.arange(0, BC)
        mask = (c < G)[:, None] & (i < size)[None, :]
        u = convolve(strips + start, weight, bias, c, i, G, size, length, K)
        scale = tl.load(gamma + g * G + c, mask=c < G, other=0.0).to(tl.float32)
        shift = tl.load(beta + g * G + c, mask=c < G, other=0.0).to(tl.float32)
        u = (u - mean) * rstd * scale[:, None] + shift[:, None]
        if SOFTMAX:
            u = tl.where((i < size)[None, :], u, float('-inf'))
            u = tl.exp(u - tl.max(u, 1)[:, None])
            a = u / tl.sum(u, 1)[:, None]
        else:
            a = 1.0 / (1.0 + tl.exp(-u))
        tl.store(gates + start + c[:, None] * length + i[None, :], a, mask=mask)


@triton.jit
def tokens_kernel(
    x, gates, y, C, H, W, sb, sc, sh, sw, height, width, cols,
    BC: tl.constexpr, BR: tl.constexpr, BJ: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """X and gates -> y, for one image, a block of channels and one row of windows.

    A tile is (BC, BR rows of a window, BJ windows, BS columns of a window).
    """
    b = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    row = tl.program_id(2)
    rows = tl.num_programs(2)
    x += b * sb
    gates += b * C * (H + W)
    for j0 in range(0, cols, BJ):
        j = j0 + tl.arange(0, BJ)
        total = tl.zeros([BC, BJ], tl.float32)
        for s0 in range(0, width, BS):
            s = s0 + tl.arange(0, BS)
            w = j[:, None] * width + s[None, :]  # (BJ, BS)
            mask_w = (j < cols)[:, None] & (s < width)[None, :]
            mask_cw = (c < C)[:, None, None] & mask_w[None, :, :]
            a_w = tl.load(
                gates + c[:, None, None] * (H + W) + H + w[None, :, :], mask=mask_cw, other=0.0
            )
            for r0 in range(0, height, BR):
                r = r0 + tl.arange(0, BR)
                h = row * height + r
                mask_h = (c < C)[:, None] & (r < height)[None, :]
                a_h = tl.load(gates + c[:, None] * (H + W) + h[None, :], mask=mask_h, other=0.0)
                tile = tl.load(
                    x
                    + c[:, None, None, None] * sc
                    + h[None, :, None, None] * sh
                    + w[None, None, :, :] * sw,
                    mask=mask_h[:, :, None, None] & mask_w[None, None, :, :],
                    other=0.0,
                ).to(tl.float32)
                tile = tile * a_h[:, :, None, None] * a_w[:, None, :, :]
                total += tl.sum(tl.sum(tile, 3), 1)
        tl.store(
            y + ((b * C + c[:, None]) * rows + row) * cols + j[None, :],
            total / (height * width),
            mask=(c < C)[:, None] & (j < cols)[None, :],
        )


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
def scale_kernel(
    x, gates, gate, out, C, H, W, xb, xc, xh, xw, ob, oc, oh, ow,
    BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Out = X * a_h * a_w * c."""
    b = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    w = tl.arange(0, BW)
    gates += b * C * (H + W)
    a_c = tl.load(gate + b * C + c, mask=c < C, other=0.0)
    a_w = load_strips(gates + H, c, w, C, W, H + W) * a_c[:, None]
    for h0 in range(0, H, BH):
        h = h0 + tl.arange(0, BH)
        mask = inside(c, h, w, C, H, W)
        a_h = load_strips(gates, c, h, C, H, H + W)
        tile = tl.load(x + b * xb + offsets(c, h, w, xc, xh, xw), mask=mask, other=0.0)
        tile = tile.to(tl.float32) * a_h[:, :, None] * a_w[:, None, :]
        tl.store(out + b * ob + offsets(c, h, w, oc, oh, ow), tile, mask=mask)


@triton.jit
def products_kernel(
    x, d_out, gates, products, d_c, C, H, W, xb, xc, xh, xw, ob, oc, oh, ow,
    BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """X, d_out -> products: sums of d_out X a_w along rows, of d_out X a_h along columns; d_c."""
    b = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    w = tl.arange(0, BW)
    gates += b * C * (H + W)
    products += b * C * (H + W)
    a_w = load_strips(gates + H, c, w, C, W, H + W)
    columns = tl.zeros([BC, BW], tl.float32)
    for h0 in range(0, H, BH):
        h = h0 + tl.arange(0, BH)
        mask = inside(c, h, w, C, H, W)
        a_h = load_strips(gates, c, h, C, H, H + W)
        tile = tl.load(x + b * xb + offsets(c, h, w, xc, xh, xw), mask=mask, other=0.0)
        grad = tl.load(d_out + b * ob + offsets(c, h, w, oc, oh, ow), mask=mask, other=0.0)
        tile = tile.to(tl.float32) * grad.to(tl.float32)
        columns += tl.sum(tile * a_h[:, :, None], 1)
        tl.store(
            products + c[:, None] * (H + W) + h[None, :],
            tl.sum(tile * a_w[:, None, :], 2),
            mask=(c < C)[:, None] & (h < H)[None, :],
        )
    tl.store(
        products + c[:, None] * (H + W) + H + w[None, :],
        columns,
        mask=(c < C)[:, None] & (w < W)[None, :],
    )
    tl.store(d_c + b * C + c, tl.sum(columns * a_w, 1), mask=c < C)


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


@triton.jit
def load_spread(d_y, c, h, w, C, rows, cols, height, width):
    """(BC, BH, BW): what the average of each window gives back to each of its pixels."""
    i = h // height
    j = w // width
    mask = inside(c, i, j, C, rows, cols)
    places = offsets(c, i, j, rows * cols, cols, 1)
    return tl.load(d_y + places, mask=mask, other=0.0) / (height * width)


@triton.jit
def gates_from_map_kernel(
    x, gates, gate, d_y, products, C, H, W, sb, sc, sh, sw, rows, cols, height, width,
    BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Products -> the gradients of the gates, in place: what d_out and what the tokens give."""
    b = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    w = tl.arange(0, BW)
    x += b * sb
    gates += b * C * (H + W)
    products += b * C * (H + W)
    d_y += b * C * rows * cols
    a_c = tl.load(gate + b * C + c, mask=c < C, other=0.0)[:, None]
    a_w = load_strips(gates + H, c, w, C, W, H + W)
    columns = tl.zeros([BC, BW], tl.float32)
    for h0 in range(0, H, BH):
        h = h0 + tl.arange(0, BH)
        a_h = load_strips(gates, c, h, C, H, H + W)
        tile = tl.load(
            x + offsets(c, h, w, sc, sh, sw), mask=inside(c, h, w, C, H, W), other=0.0
        ).to(tl.float32)
        tile *= load_spread(d_y, c, h, w, C, rows, cols, height, width)
        columns += tl.sum(tile * a_h[:, :, None], 1)
        along = load_strips(products, c, h, C, H, H + W) * a_c
        tl.store(
            products + c[:, None] * (H + W) + h[None, :],
            along + tl.sum(tile * a_w[:, None, :], 2),
            mask=(c < C)[:, None] & (h < H)[None, :],
        )
    along = load_strips(products + H, c, w, C, W, H + W) * a_c
    tl.store(
        products + c[:, None] * (H + W) + H + w[None, :],
        along + columns,
        mask=(c < C)[:, None] & (w < W)[None, :],
    )


@triton.jit
def strip_gradient(a, grad, SOFTMAX: tl.constexpr):
    """(BC, BI): the gradient of a gate to that of the normalised strip."""
    if SOFTMAX:
        return a * (grad - tl.sum(a * grad, 1)[:, None])
    return grad * a * (1.0 - a)


@triton.jit
def norms_grad_kernel(
    strips, gates, stats, d_gates, partial, w0, w1, w2, w3, b0, b1, b2, b3, weight_h, weight_w,
    C, H, W, P, place, k0, k1, k2, k3,
    SOFTMAX: tl.constexpr, BC: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """d_gates -> the gradient of the convolved strips, in place, for one image, group and strip."""
    b = tl.program_id(0).to(tl.int64)
    g = tl.program_id(1)
    s = tl.program_id(2)
    G = C // 4
    length = H + W
    size = tl.where(s == 0, H, W)
    weight = of_group(g, w0, w1, w2, w3)
    bias = of_group(g, b0, b1, b2, b3)
    K = size_of_group(g, k0, k1, k2, k3)
    gamma = weight_h
    if s == 1:
        gamma = weight_w
    start = (b * C + g * G) * length + s * H
    partial += b * P + place + s * 2 * C + g * G
    mean = tl.load(stats + ((b * 2 + s) * 4 + g) * 2)
    rstd = tl.load(stats + ((b * 2 + s) * 4 + g) * 2 + 1)
    i = tl.arange(0, BI)

    total = 0.0
    along = 0.0
    for c0 in range(0, G, BC):
        c = c0 + tl.arange(0, BC)
        u = convolve(strips + start, weight, bias, c, i, G, size, length, K)
        a = load_strips(gates + start, c, i, G, size, length)
        grad = load_strips(d_gates + start, c, i, G, size, length)
        grad = strip_gradient(a, grad, SOFTMAX)
        d_scale = tl.sum(grad * (u - mean) * rstd, 1)
        d_shift = tl.sum(grad, 1)
        scale = tl.load(gamma + g * G + c, mask=c < G, other=0.0).to(tl.float32)
        total += tl.sum(d_shift * scale)
        along += tl.sum(d_scale * scale)
        tl.store(partial + c, d_scale, mask=c < G)
        tl.store(partial + C + c, d_shift, mask=c < G)
    total /= G * size
    along /= G * size
    for c0 in range(0, G, BC):
        c = c0 + tl.arange(0, BC)
        u = convolve(strips + start, weight, bias, c, i, G, size, length, K)
        a = load_strips(gates + start, c, i, G, size, length)
        grad = load_strips(d_gates + start, c, i, G, size, length)
        grad = strip_gradient(a, grad, SOFTMAX)
        scale = tl.load(gamma + g * G + c, mask=c < G, other=0.0).to(tl.float32)
        grad = (grad * scale[:, None] - total - (u - mean) * rstd * along) * rstd
        tl.store(
            d_gates + start + c[:, None] * length + i[None, :],
            grad,
            mask=(c < G)[:, None] & (i < size)[None, :],
        )


@triton.jit
def convolutions_grad_kernel(
    strips, d_u, d_strips, partial, w0, w1, w2, w3, C, H, W, P, k0, k1, k2, k3,
    BC: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """d_u -> d_strips and the gradients of kernels and biases, for one image and kernel group."""
    b = tl.program_id(0).to(tl.int64)
    g = tl.program_id(1)
    G = C // 4
    length = H + W
    weight = of_group(g, w0, w1, w2, w3)
    K = size_of_group(g, k0, k1, k2, k3)
    before = tl.where(g > 0, k0, 0) + tl.where(g > 1, k1, 0) + tl.where(g > 2, k2, 0)
    kernels = partial + b * P + G * before
    biases = partial + b * P + G * (k0 + k1 + k2 + k3) + g * G
    start = (b * C + g * G) * length
    i = tl.arange(0, BI)
    for c0 in range(0, G, BC):
        c = c0 + tl.arange(0, BC)
        d_bias = tl.zeros([BC], tl.float32)
        for s in range(2):
            size = tl.where(s == 0, H, W)
            at = start + s * H
            d_bias += tl.sum(load_strips(d_u + at, c, i, G, size, length), 1)
            grad = tl.zeros([BC, BI], tl.float32)
            for t in range(K):
                p = i - t + K // 2
                tap = tl.load(weight + c * K + t, mask=c < G, other=0.0).to(tl.float32)
                mask = (c < G)[:, None] & ((p >= 0) & (p < size))[None, :]
                grad += tap[:, None] * tl.load(
                    d_u + at + c[:, None] * length + p[None, :], mask=mask, other=0.0
                )
            tl.store(
                d_strips + at + c[:, None] * length + i[None, :],
                grad,
                mask=(c < G)[:, None] & (i < size)[None, :],
            )
        tl.store(biases + c, d_bias, mask=c < G)
        for t in range(K):
            d_tap = tl.zeros([BC], tl.float32)
            for s in range(2):
                size = tl.where(s == 0, H, W)
                at = start + s * H
                p = i + t - K // 2
                mask = (c < G)[:, None] & ((p >= 0) & (p < size))[None, :]
                x = tl.load(strips + at + c[:, None] * length + p[None, :], mask=mask, other=0.0)
                d_tap += tl.sum(x * load_strips(d_u + at, c, i, G, size, length), 1)
            tl.store(kernels + c * K + t, d_tap, mask=c < G)


@triton.jit
def map_grad_kernel(
    d_out, gates, gate, d_y, d_strips, d_x, C, H, W, ob, oc, oh, ow, xb, xc, xh, xw,
    rows, cols, height, width,
    BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """d_X = (d_out c + d_y spread) a_h a_w + d_h / W + d_w / H."""
    b = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    w = tl.arange(0, BW)
    gates += b * C * (H + W)
    d_strips += b * C * (H + W)
    d_y += b * C * rows * cols
    a_c = tl.load(gate + b * C + c, mask=c < C, other=0.0)[:, None, None]
    a_w = load_strips(gates + H, c, w, C, W, H + W)[:, None, :]
    d_w = load_strips(d_strips + H, c, w, C, W, H + W)[:, None, :] / H
    for h0 in range(0, H, BH):
        h = h0 + tl.arange(0, BH)
        mask = inside(c, h, w, C, H, W)
        a_h = load_strips(gates, c, h, C, H, H + W)[:, :, None]
        d_h = load_strips(d_strips, c, h, C, H, H + W)[:, :, None] / W
        grad = tl.load(d_out + b * ob + offsets(c, h, w, oc, oh, ow), mask=mask, other=0.0)
        grad = grad.to(tl.float32) * a_c
        grad += load_spread(d_y, c, h, w, C, rows, cols, height, width)
        grad = grad * a_h * a_w + d_h + d_w
        tl.store(d_x + b * xb + offsets(c, h, w, xc, xh, xw), grad, mask=mask)

"""The Triton kernels between strips and gates: convolutions and norms, forward and then backward.

A program has a kernel group of one image and takes its channels in blocks of BC; a strip is one
block BI. What the tensors are, `fused.py` says.
"""
# ruff: noqa: N803, N806 - capitals are sizes, as in the shapes of fused.py

import triton
import triton.language as tl


@triton.jit
def load_strips(base, c, i, C, size, length):
    """(BC, BI) of a strip of `size` values whose channels are `length` apart."""
    return tl.load(
        base + c[:, None] * length + i[None, :],
        mask=(c < C)[:, None] & (i < size)[None, :],
        other=0.0,
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

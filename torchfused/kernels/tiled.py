"""Strategy ``tiled``: one GEMM with its whole epilogue in one launch; the MLP is two of them."""

import triton
import triton.language as tl


# K=1 as a constant would unroll the loop over K and fold the bias into the matrix unit as its first accumulator.
@triton.jit(do_not_specialize=["K"])
def linear_fwd_kernel(
    x_ptr,
    w_ptr,
    gate_ptr,
    b_ptr,
    b_gate_ptr,
    y_ptr,
    s_ptr,
    u_ptr,
    M,
    N,
    K,
    stride_xm,
    stride_xk,
    stride_wn,
    stride_wk,
    stride_gn,
    stride_gk,
    stride_b,
    stride_bg,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    SPLIT_K: tl.constexpr,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    BIAS: tl.constexpr,
    BIAS_GATE: tl.constexpr,
    TAPS: tl.constexpr,
    TF32: tl.constexpr,
    EVEN_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """``y = act(x w^T + b)``, or ``y = act(x gate^T + b_gate) * (x w^T + b)`` when GATED.

    x ``[M, K]``, w and gate ``[N, K]``, y ``[M, N]`` row-major. float32 accumulation, bias and activation; y is
    rounded once, to its own type. TAPS also writes the argument of the activation to s and, when GATED, the other
    factor to u (both float32 ``[M, N]``).
    """
    pid = tl.program_id(0)
    tiles_m = tl.cdiv(M, BM)
    tiles_n = tl.cdiv(N, BN)
    # GROUP_M rows of tiles share their columns' weights in L2.
    group = pid // (GROUP_M * tiles_n)
    rows = min(tiles_m - group * GROUP_M, GROUP_M)
    tile_m = group * GROUP_M + (pid % (GROUP_M * tiles_n)) % rows
    tile_n = (pid % (GROUP_M * tiles_n)) // rows

    # 64-bit: a row's offset passes 2^31 elements in large batches.
    m = (tile_m * BM + tl.arange(0, BM)).to(tl.int64)
    n = (tile_n * BN + tl.arange(0, BN)).to(tl.int64)
    m_mask = (m < M)[:, None]
    n_mask = (n < N)[None, :]
    x_rows = x_ptr + m[:, None] * stride_xm
    w_cols = w_ptr + n[None, :] * stride_wn
    gate_cols = gate_ptr + n[None, :] * stride_gn

    chain = tl.cdiv(tl.cdiv(K, BK), SPLIT_K) * BK
    acc, acc_gate = _chain(
        x_rows, w_cols, gate_cols, m_mask, n_mask, 0, min(chain, K), K, stride_xk, stride_wk, stride_gk,
        BM, BN, BK, GATED, TF32, EVEN_K,
    )  # fmt: skip
    for i in range(1, SPLIT_K):
        part, part_gate = _chain(
            x_rows, w_cols, gate_cols, m_mask, n_mask, i * chain, min((i + 1) * chain, K), K,
            stride_xk, stride_wk, stride_gk, BM, BN, BK, GATED, TF32, EVEN_K,
        )  # fmt: skip
        acc += part
        acc_gate += part_gate

    if BIAS:
        acc += tl.load(b_ptr + n * stride_b, mask=n < N, other=0.0).to(tl.float32)[None, :]
    if BIAS_GATE:
        acc_gate += tl.load(b_gate_ptr + n * stride_bg, mask=n < N, other=0.0).to(tl.float32)[None, :]

    out = m[:, None] * N + n[None, :]
    mask = m_mask & n_mask
    if GATED:
        if TAPS:
            tl.store(s_ptr + out, acc_gate, mask=mask)
            tl.store(u_ptr + out, acc, mask=mask)
        y = ACTIVATION(acc_gate) * acc
    else:
        if TAPS:
            tl.store(s_ptr + out, acc, mask=mask)
        y = ACTIVATION(acc)
    tl.store(y_ptr + out, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _chain(
    x_rows, w_cols, gate_cols, m_mask, n_mask, start, stop, K, stride_xk, stride_wk, stride_gk,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    GATED: tl.constexpr, TF32: tl.constexpr, EVEN_K: tl.constexpr,
):  # fmt: skip
    """One accumulator chain over ``[start, stop)`` in ascending K: ``x w^T`` and, when GATED, ``x gate^T``."""
    acc = tl.zeros((BM, BN), tl.float32)
    acc_gate = tl.zeros((BM, BN), tl.float32) if GATED else 0.0
    for k0 in range(start, stop, BK):
        k = (k0 + tl.arange(0, BK)).to(tl.int64)
        if EVEN_K:
            x_mask = m_mask
            w_mask = n_mask
        else:
            x_mask = m_mask & (k < K)[None, :]
            w_mask = n_mask & (k < K)[:, None]
        x = tl.load(x_rows + k[None, :] * stride_xk, mask=x_mask, other=0.0)  # [BM, BK]
        w = tl.load(w_cols + k[:, None] * stride_wk, mask=w_mask, other=0.0)  # [BK, BN]
        if TF32:
            x = _round_tf32(x)
        acc = _dot(x, w, acc, TF32)
        if GATED:
            gate = tl.load(gate_cols + k[:, None] * stride_gk, mask=w_mask, other=0.0)  # [BK, BN]
            acc_gate = _dot(x, gate, acc_gate, TF32)
    return acc, acc_gate


@triton.jit
def _dot(x, w, acc, TF32: tl.constexpr):
    if TF32:
        return tl.dot(x, _round_tf32(w), acc, input_precision="tf32")
    return tl.dot(x, w, acc, input_precision="ieee")


@triton.jit
def _round_tf32(x):
    """Nearest float32 with 10 fraction bits, ties away from zero (``cvt.rna.tf32``); NaN stays NaN."""
    bits = (x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
    return tl.where(x == x, bits.to(tl.float32, bitcast=True), x)

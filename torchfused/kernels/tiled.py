"""Strategy ``tiled``: one GEMM with its whole epilogue in one launch; the MLP is two of them."""

import triton
import triton.language as tl

from .epilogue import finish
from .gemm import chain, tile_of


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
    LENGTH,
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
    EVEN_M: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    COLUMNS: tl.constexpr,
    VENDOR: tl.constexpr,
):
    """``y = act(x w^T + b)``, or ``y = act(x gate^T + b_gate) * (x w^T + b)`` when GATED.

    x ``[M, K]``, w and gate ``[N, K]``, y ``[M, N]`` row-major. float32 accumulation, bias and activation; y is
    rounded once, to its own type. K is summed in SPLIT_K chains of LENGTH terms, the last ones as far as K goes. TAPS
    also writes the argument of the activation to s and, when GATED, the other factor to u (``[M, N]``, rounded to
    their own type). VENDOR: rounded and spelled as torch's eager MLP is.
    """
    tile_m, tile_n = tile_of(M, N, BM, BN, GROUP_M)
    # 64-bit: a row's offset passes 2^31 elements in large batches.
    m = (tile_m * BM + tl.arange(0, BM)).to(tl.int64)
    n = (tile_n * BN + tl.arange(0, BN)).to(tl.int64)
    m_mask = (m < M)[:, None]
    n_mask = (n < N)[None, :]
    x_rows = x_ptr + m[:, None] * stride_xm
    w_cols = w_ptr + n[None, :] * stride_wn
    gate_cols = gate_ptr + n[None, :] * stride_gn

    zeros = tl.zeros((BM, BN), tl.float32)
    none = zeros if GATED else 0.0
    acc, acc_gate = chain(
        zeros, none, x_rows, w_cols, gate_cols, m_mask, n_mask, 0, min(LENGTH, K),
        stride_xk, stride_wk, stride_gk, BK, GATED, TF32, EVEN_M, EVEN_N, EVEN_K,
    )  # fmt: skip
    for i in range(1, SPLIT_K):
        part, part_gate = chain(
            zeros, none, x_rows, w_cols, gate_cols, m_mask, n_mask, i * LENGTH, min((i + 1) * LENGTH, K),
            stride_xk, stride_wk, stride_gk, BK, GATED, TF32, EVEN_M, EVEN_N, EVEN_K,
        )  # fmt: skip
        acc += part
        acc_gate += part_gate

    finish(
        acc, acc_gate, b_ptr, b_gate_ptr, y_ptr, s_ptr, u_ptr, m, tile_n * BN, M, N, stride_b, stride_bg,
        BN, COLUMNS, ACTIVATION, GATED, BIAS, BIAS_GATE, TAPS, VENDOR,
    )  # fmt: skip

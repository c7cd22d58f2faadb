"""Strategy ``decode``: the whole MLP in one launch, for few rows."""

import triton
import triton.language as tl

from .epilogue import finish
from .gemm import chain, chains_abreast
from .handover import hand_over


# K=1 and H=1 as constants would unroll the loop over them: see linear_fwd_kernel.
@triton.jit(do_not_specialize=["K", "H"])
def decode_fwd_kernel(
    x_ptr,
    w_up_ptr,
    gate_ptr,
    w_down_ptr,
    b_up_ptr,
    b_gate_ptr,
    b_down_ptr,
    h_ptr,
    y_ptr,
    s_ptr,
    u_ptr,
    arrivals_ptr,
    M,
    K,
    H,
    N,
    LENGTH_K,
    LENGTH_H,
    stride_xm,
    stride_xk,
    stride_uh,
    stride_uk,
    stride_gh,
    stride_gk,
    stride_dn,
    stride_dh,
    stride_bu,
    stride_bg,
    stride_bd,
    BM: tl.constexpr,
    BH: tl.constexpr,
    BK: tl.constexpr,
    BN: tl.constexpr,
    BL: tl.constexpr,
    SPLIT_K: tl.constexpr,
    SPLIT_H: tl.constexpr,
    ACTIVATION: tl.constexpr,
    IDENTITY: tl.constexpr,
    GATED: tl.constexpr,
    BIAS_UP: tl.constexpr,
    BIAS_GATE: tl.constexpr,
    BIAS_DOWN: tl.constexpr,
    TAPS: tl.constexpr,
    TF32: tl.constexpr,
    EVEN_BH: tl.constexpr,
    EVEN_BK: tl.constexpr,
    EVEN_BN: tl.constexpr,
    EVEN_BL: tl.constexpr,
    COLUMNS: tl.constexpr,
    VENDOR: tl.constexpr,
    UP: tl.constexpr,
    DOWN: tl.constexpr,
):
    """``h = act(x w_up^T + b_up)``, or ``h = act(x gate^T + b_gate) * (x w_up^T + b_up)`` when GATED, then
    ``y = h w_down^T + b_down``; the arithmetic is linear_fwd_kernel's.

    x ``[M, K]``, all M rows in one tile; w_up and gate ``[H, K]``, w_down ``[N, H]``; h ``[M, H]`` and y ``[M, N]``
    row-major. Each program computes every so-manieth block of BH columns of h (K in steps of BK) and, after the
    hand-over, of BN columns of y (H in steps of BL). UP and DOWN: which of the two halves runs; both, with the
    hand-over between them, on a GPU, one a launch where programs run one after the other.
    """
    first, step = tl.program_id(0), tl.num_programs(0)
    if UP:
        for block in range(first, tl.cdiv(H, BH), step):
            _block(
                x_ptr, w_up_ptr, gate_ptr, b_up_ptr, b_gate_ptr, h_ptr, s_ptr, u_ptr, block, M, H, K, LENGTH_K,
                stride_xm, stride_xk, stride_uh, stride_uk, stride_gh, stride_gk, stride_bu, stride_bg,
                BM, BH, BK, SPLIT_K, ACTIVATION, GATED, BIAS_UP, BIAS_GATE, TAPS, TF32, EVEN_BH, EVEN_BK, COLUMNS,
                VENDOR,
            )  # fmt: skip
    if UP and DOWN:
        hand_over(arrivals_ptr)
    if DOWN:
        for block in range(first, tl.cdiv(N, BN), step):
            _block(
                h_ptr, w_down_ptr, w_down_ptr, b_down_ptr, b_down_ptr, y_ptr, s_ptr, u_ptr, block, M, N, H, LENGTH_H,
                H, 1, stride_dn, stride_dh, stride_dn, stride_dh, stride_bd, 0,
                BM, BN, BL, SPLIT_H, IDENTITY, False, BIAS_DOWN, False, False, TF32, EVEN_BN, EVEN_BL, COLUMNS,
                VENDOR,
            )  # fmt: skip


@triton.jit
def _block(
    x_ptr, w_ptr, gate_ptr, b_ptr, b_gate_ptr, y_ptr, s_ptr, u_ptr, block, M, N, K, LENGTH,
    stride_xm, stride_xk, stride_wn, stride_wk, stride_gn, stride_gk, stride_b, stride_bg,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT_K: tl.constexpr, ACTIVATION: tl.constexpr,
    GATED: tl.constexpr, BIAS: tl.constexpr, BIAS_GATE: tl.constexpr, TAPS: tl.constexpr, TF32: tl.constexpr,
    EVEN_N: tl.constexpr, EVEN_K: tl.constexpr, COLUMNS: tl.constexpr, VENDOR: tl.constexpr,
):  # fmt: skip
    """One block of BN columns of ``act(x w^T + b)``, all rows of it."""
    m = tl.arange(0, BM).to(tl.int64)
    n = (block * BN + tl.arange(0, BN)).to(tl.int64)
    m_mask = (m < M)[:, None]
    n_mask = (n < N)[None, :]
    x_rows = x_ptr + m[:, None] * stride_xm
    w_cols = w_ptr + n[None, :] * stride_wn
    gate_cols = gate_ptr + n[None, :] * stride_gn
    if SPLIT_K == 1:
        zeros = tl.zeros((BM, BN), tl.float32)
        acc, acc_gate = chain(
            zeros, zeros if GATED else 0.0, x_rows, w_cols, gate_cols, m_mask, n_mask, 0, K,
            stride_xk, stride_wk, stride_gk, BK, GATED, TF32, False, EVEN_N, EVEN_K,
        )  # fmt: skip
    else:
        acc, acc_gate = chains_abreast(
            x_rows, w_cols, gate_cols, m_mask, n_mask, K, LENGTH, stride_xk, stride_wk, stride_gk,
            BM, BN, BK, SPLIT_K, GATED, TF32, EVEN_N, EVEN_K,
        )  # fmt: skip
    finish(
        acc, acc_gate, b_ptr, b_gate_ptr, y_ptr, s_ptr, u_ptr, m, block * BN, M, N, stride_b, stride_bg,
        BN, COLUMNS, ACTIVATION, GATED, BIAS, BIAS_GATE, TAPS, VENDOR,
    )  # fmt: skip

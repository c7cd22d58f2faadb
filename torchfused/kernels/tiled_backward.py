"""The backward of strategy ``tiled``: the hidden layer's gradient with its epilogue, and products."""

import triton
import triton.language as tl

from .epilogue import activated
from .gemm import chain, halves, tile_of


@triton.jit(do_not_specialize=["K"])
def hidden_bwd_kernel(
    dy_ptr,
    w_ptr,
    s_ptr,
    u_ptr,
    h_ptr,
    ds_ptr,
    du_ptr,
    M,
    N,
    K,
    stride_dm,
    stride_dk,
    stride_wk,
    stride_wn,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    ACTIVATION: tl.constexpr,
    DERIVATIVE: tl.constexpr,
    GATED: tl.constexpr,
    HIDDEN: tl.constexpr,
    TF32: tl.constexpr,
    EVEN_M: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    COLUMNS: tl.constexpr,
    VENDOR: tl.constexpr,
):
    """``ds = (dy w) act'(s)``; when GATED, ``ds = ((dy w) u) act'(s)`` and ``du = (dy w) act(s)``.

    dy ``[M, K]``, w ``[K, N]``; s, u, h, ds, du ``[M, N]`` row-major. One chain in float32; ds and du are rounded once,
    to their own type. HIDDEN also writes ``h = act(s)``, times u when GATED, as the forward does.
    """
    tile_m, tile_n = tile_of(M, N, BM, BN, GROUP_M)
    m = (tile_m * BM + tl.arange(0, BM)).to(tl.int64)
    n = (tile_n * BN + tl.arange(0, BN)).to(tl.int64)
    w_cols = w_ptr + n[None, :] * stride_wn
    dh, _ = chain(
        tl.zeros((BM, BN), tl.float32), 0.0, dy_ptr + m[:, None] * stride_dm, w_cols, w_cols,
        (m < M)[:, None], (n < N)[None, :], 0, K,
        stride_dk, stride_wk, stride_wk, BK, False, TF32, EVEN_M, EVEN_N, EVEN_K,
    )  # fmt: skip
    _finish(
        dh, s_ptr, u_ptr, h_ptr, ds_ptr, du_ptr, m, tile_n * BN, M, N,
        BN, COLUMNS, ACTIVATION, DERIVATIVE, GATED, HIDDEN, VENDOR,
    )  # fmt: skip


@triton.jit
def _finish(
    dh, s_ptr, u_ptr, h_ptr, ds_ptr, du_ptr, m, first, M, N,
    BN: tl.constexpr, COLUMNS: tl.constexpr, ACTIVATION: tl.constexpr, DERIVATIVE: tl.constexpr,
    GATED: tl.constexpr, HIDDEN: tl.constexpr, VENDOR: tl.constexpr,
):  # fmt: skip
    """The epilogue of the columns from ``first`` on, COLUMNS at a time."""
    if BN > COLUMNS:
        left, right = halves(dh)
        _finish(
            left, s_ptr, u_ptr, h_ptr, ds_ptr, du_ptr, m, first, M, N,
            BN // 2, COLUMNS, ACTIVATION, DERIVATIVE, GATED, HIDDEN, VENDOR,
        )  # fmt: skip
        _finish(
            right, s_ptr, u_ptr, h_ptr, ds_ptr, du_ptr, m, first + BN // 2, M, N,
            BN // 2, COLUMNS, ACTIVATION, DERIVATIVE, GATED, HIDDEN, VENDOR,
        )  # fmt: skip
    else:
        n = (first + tl.arange(0, BN)).to(tl.int64)
        at = m[:, None] * N + n[None, :]
        mask = (m < M)[:, None] & (n < N)[None, :]
        s = tl.load(s_ptr + at, mask=mask, other=0.0).to(tl.float32)
        if GATED:
            u = tl.load(u_ptr + at, mask=mask, other=0.0).to(tl.float32)
            f = activated(s, s_ptr.dtype.element_ty, ACTIVATION, VENDOR)
            ds = (dh * u) * DERIVATIVE(s)
            tl.store(du_ptr + at, (dh * f).to(du_ptr.dtype.element_ty), mask=mask)
            if HIDDEN:
                tl.store(h_ptr + at, (f * u).to(h_ptr.dtype.element_ty), mask=mask)
        else:
            ds = dh * DERIVATIVE(s)
            if HIDDEN:
                f = activated(s, s_ptr.dtype.element_ty, ACTIVATION, VENDOR)
                tl.store(h_ptr + at, f.to(h_ptr.dtype.element_ty), mask=mask)
        tl.store(ds_ptr + at, ds.to(ds_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["K"])
def product_bwd_kernel(
    a_ptr,
    b_ptr,
    a2_ptr,
    b2_ptr,
    y_ptr,
    M,
    N,
    K,
    stride_am,
    stride_ak,
    stride_bk,
    stride_bn,
    stride_a2m,
    stride_a2k,
    stride_b2k,
    stride_b2n,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PAIR: tl.constexpr,
    TF32: tl.constexpr,
    EVEN_M: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """``y = a b``, or ``y = a b + a2 b2`` when PAIR: one chain in float32, all of the first product, then the second.

    a, a2 ``[M, K]``, b, b2 ``[K, N]``, any strides; y ``[M, N]`` row-major, rounded once, to its own type.
    """
    tile_m, tile_n = tile_of(M, N, BM, BN, GROUP_M)
    m = (tile_m * BM + tl.arange(0, BM)).to(tl.int64)
    n = (tile_n * BN + tl.arange(0, BN)).to(tl.int64)
    m_mask = (m < M)[:, None]
    n_mask = (n < N)[None, :]
    b_cols = b_ptr + n[None, :] * stride_bn
    acc, _ = chain(
        tl.zeros((BM, BN), tl.float32), 0.0, a_ptr + m[:, None] * stride_am, b_cols, b_cols,
        m_mask, n_mask, 0, K, stride_ak, stride_bk, stride_bk, BK, False, TF32, EVEN_M, EVEN_N, EVEN_K,
    )  # fmt: skip
    if PAIR:
        b2_cols = b2_ptr + n[None, :] * stride_b2n
        acc, _ = chain(
            acc, 0.0, a2_ptr + m[:, None] * stride_a2m, b2_cols, b2_cols,
            m_mask, n_mask, 0, K, stride_a2k, stride_b2k, stride_b2k, BK, False, TF32, EVEN_M, EVEN_N, EVEN_K,
        )  # fmt: skip
    tl.store(y_ptr + m[:, None] * N + n[None, :], acc.to(y_ptr.dtype.element_ty), mask=m_mask & n_mask)

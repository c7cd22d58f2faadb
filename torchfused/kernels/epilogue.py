"""What follows a product's chains: bias, activation, gate, taps, and the one rounding of the result."""

import triton
import triton.language as tl

from ..vendor import rounded
from .gemm import halves


@triton.jit
def finish(
    acc, acc_gate, b_ptr, b_gate_ptr, y_ptr, s_ptr, u_ptr, m, first, M, N, stride_b, stride_bg,
    BN: tl.constexpr, COLUMNS: tl.constexpr, ACTIVATION: tl.constexpr,
    GATED: tl.constexpr, BIAS: tl.constexpr, BIAS_GATE: tl.constexpr, TAPS: tl.constexpr, VENDOR: tl.constexpr,
):  # fmt: skip
    """The epilogue of the columns from ``first`` on, COLUMNS at a time. VENDOR: what torch's eager MLP hands on from
    one operation to the next is rounded as there, to y's type."""
    if BN > COLUMNS:
        left, right = halves(acc)
        gate_left, gate_right = halves(acc_gate) if GATED else (acc_gate, acc_gate)
        finish(
            left, gate_left, b_ptr, b_gate_ptr, y_ptr, s_ptr, u_ptr, m, first, M, N, stride_b, stride_bg,
            BN // 2, COLUMNS, ACTIVATION, GATED, BIAS, BIAS_GATE, TAPS, VENDOR,
        )  # fmt: skip
        finish(
            right, gate_right, b_ptr, b_gate_ptr, y_ptr, s_ptr, u_ptr, m, first + BN // 2, M, N, stride_b, stride_bg,
            BN // 2, COLUMNS, ACTIVATION, GATED, BIAS, BIAS_GATE, TAPS, VENDOR,
        )  # fmt: skip
    else:
        n = (first + tl.arange(0, BN)).to(tl.int64)
        if BIAS:
            acc += tl.load(b_ptr + n * stride_b, mask=n < N, other=0.0).to(tl.float32)[None, :]
        if BIAS_GATE:
            acc_gate += tl.load(b_gate_ptr + n * stride_bg, mask=n < N, other=0.0).to(tl.float32)[None, :]
        out = m[:, None] * N + n[None, :]
        mask = (m < M)[:, None] & (n < N)[None, :]
        if VENDOR:
            acc = rounded(acc, y_ptr.dtype.element_ty)
            acc_gate = rounded(acc_gate, y_ptr.dtype.element_ty) if GATED else acc_gate
        y = activated(acc_gate if GATED else acc, y_ptr.dtype.element_ty, ACTIVATION, VENDOR)
        if GATED:
            y *= acc
        if TAPS:
            tl.store(s_ptr + out, (acc_gate if GATED else acc).to(s_ptr.dtype.element_ty), mask=mask)
            if GATED:
                tl.store(u_ptr + out, acc.to(u_ptr.dtype.element_ty), mask=mask)
        tl.store(y_ptr + out, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def activated(s, dtype: tl.constexpr, ACTIVATION: tl.constexpr, VENDOR: tl.constexpr):
    """``ACTIVATION(s)`` in float32; VENDOR's takes the operands' type, and is rounded to it."""
    if VENDOR:
        return rounded(ACTIVATION(s, dtype), dtype)
    else:
        return ACTIVATION(s)

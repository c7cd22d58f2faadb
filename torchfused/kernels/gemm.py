"""What all GEMM kernels share: which tile is a program's, one accumulator chain over K, halves of a tile."""

import triton
import triton.language as tl


@triton.jit
def tile_of(M, N, BM: tl.constexpr, BN: tl.constexpr, GROUP_M: tl.constexpr):
    """The row and column of this program's tile; GROUP_M rows of tiles share their columns' operand in L2."""
    pid = tl.program_id(0)
    tiles_m = tl.cdiv(M, BM)
    tiles_n = tl.cdiv(N, BN)
    group = pid // (GROUP_M * tiles_n)
    rows = min(tiles_m - group * GROUP_M, GROUP_M)
    return group * GROUP_M + (pid % (GROUP_M * tiles_n)) % rows, (pid % (GROUP_M * tiles_n)) // rows


@triton.jit
def chain(
    acc, acc_gate, a_rows, b_cols, gate_cols, m_mask, n_mask, start, stop, stride_ak, stride_bk, stride_gk,
    BK: tl.constexpr, GATED: tl.constexpr, TF32: tl.constexpr, EVEN_MN: tl.constexpr, EVEN_K: tl.constexpr,
):  # fmt: skip
    """``acc + a b`` and, when GATED, ``acc_gate + a gate``, over ``[start, stop)`` of K, ascending.

    ``a_rows`` ``[BM, 1]``, ``b_cols`` and ``gate_cols`` ``[1, BN]`` point to k = 0. EVEN_MN: no row and no column is
    outside; EVEN_K: BK divides ``stop - start``.
    """
    k = tl.arange(0, BK)
    # The pointers move along: computed anew in each step, they cost a tenth of the time.
    a_ptrs = a_rows + _along(k + start, stride_ak)[None, :]
    b_ptrs = b_cols + _along(k + start, stride_bk)[:, None]
    gate_ptrs = gate_cols + _along(k + start, stride_gk)[:, None]
    for k0 in range(start, stop, BK):
        a_mask = m_mask if EVEN_K else m_mask & (k < stop - k0)[None, :]
        b_mask = n_mask if EVEN_K else n_mask & (k < stop - k0)[:, None]
        a = _load(a_ptrs, a_mask, EVEN_MN and EVEN_K)  # [BM, BK]
        acc = dot(a, _load(b_ptrs, b_mask, EVEN_MN and EVEN_K), acc, TF32)  # [BK, BN]
        if GATED:
            acc_gate = dot(a, _load(gate_ptrs, b_mask, EVEN_MN and EVEN_K), acc_gate, TF32)
            gate_ptrs += _along(BK, stride_gk)
        a_ptrs += _along(BK, stride_ak)
        b_ptrs += _along(BK, stride_bk)
    return acc, acc_gate


@triton.jit
def dot(a, b, acc, TF32: tl.constexpr):
    """``acc + a b`` in float32; TF32 rounds both to 10 fraction bits first."""
    if TF32:
        return tl.dot(round_tf32(a), round_tf32(b), acc, input_precision="tf32")
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def round_tf32(x):
    """Nearest float32 with 10 fraction bits, ties away from zero (``cvt.rna.tf32``); NaN stays NaN."""
    bits = (x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
    return tl.where(x == x, bits.to(tl.float32, bitcast=True), x)


@triton.jit
def halves(tile):
    """The left and the right half of a tile's columns. An epilogue that works on parts of an accumulator keeps few of
    its values at once: whole, those of a large tile spill."""
    M: tl.constexpr = tile.shape[0]
    N: tl.constexpr = tile.shape[1]
    return tl.split(tile.reshape(M, 2, N // 2).permute(0, 2, 1))


@triton.jit
def _load(ptrs, mask, WHOLE: tl.constexpr):
    return tl.load(ptrs) if WHOLE else tl.load(ptrs, mask=mask, other=0.0)


@triton.jit
def _along(k, stride):
    # 64-bit: offsets pass 2^31 elements in large batches.
    return tl.cast(k, tl.int64) * stride

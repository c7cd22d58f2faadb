"""What all GEMM kernels share: which tile is a program's, accumulator chains over K, halves of a tile."""

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
    BK: tl.constexpr, GATED: tl.constexpr, TF32: tl.constexpr,
    EVEN_M: tl.constexpr, EVEN_N: tl.constexpr, EVEN_K: tl.constexpr,
):  # fmt: skip
    """``acc + a b`` and, when GATED, ``acc_gate + a gate``, over ``[start, stop)`` of K, ascending.

    ``a_rows`` ``[BM, 1]``, ``b_cols`` and ``gate_cols`` ``[1, BN]`` point to k = 0. EVEN_M: no row is outside;
    EVEN_N: no column is; EVEN_K: BK divides ``stop - start``.
    """
    k = tl.arange(0, BK)
    # The pointers move along: computed anew in each step, they cost a tenth of the time.
    a_ptrs = a_rows + _along(k + start, stride_ak)[None, :]
    b_ptrs = b_cols + _along(k + start, stride_bk)[:, None]
    gate_ptrs = gate_cols + _along(k + start, stride_gk)[:, None]
    for k0 in range(start, stop, BK):
        a_mask = m_mask if EVEN_K else m_mask & (k < stop - k0)[None, :]
        b_mask = n_mask if EVEN_K else n_mask & (k < stop - k0)[:, None]
        a = _load(a_ptrs, a_mask, EVEN_M and EVEN_K)  # [BM, BK]
        acc = dot(a, _load(b_ptrs, b_mask, EVEN_N and EVEN_K), acc, TF32)  # [BK, BN]
        if GATED:
            acc_gate = dot(a, _load(gate_ptrs, b_mask, EVEN_N and EVEN_K), acc_gate, TF32)
            gate_ptrs += _along(BK, stride_gk)
        a_ptrs += _along(BK, stride_ak)
        b_ptrs += _along(BK, stride_bk)
    return acc, acc_gate


@triton.jit
def chains_abreast(
    a_rows, b_cols, gate_cols, m_mask, n_mask, K, LENGTH, stride_ak, stride_bk, stride_gk,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT_K: tl.constexpr,
    GATED: tl.constexpr, TF32: tl.constexpr, EVEN_N: tl.constexpr, EVEN_K: tl.constexpr,
):  # fmt: skip
    """``a b`` and, when GATED, ``a gate``: K is summed in SPLIT_K chains of LENGTH terms, BK of each a step, so that
    no product waits for the one before it; then the chains are added in ascending order.

    ``a_rows`` ``[BM, 1]``, ``b_cols`` and ``gate_cols`` ``[1, BN]`` point to k = 0. EVEN_K: all chains are equally
    long and BK divides them.
    """
    start = tl.arange(0, SPLIT_K) * LENGTH
    k = start[:, None] + tl.arange(0, BK)[None, :]  # [S, BK]
    stop = tl.minimum(start + LENGTH, K)[:, None]
    a_ptrs = a_rows[None, :, :] + _along(k, stride_ak)[:, None, :]
    b_ptrs = b_cols[None, :, :] + _along(k, stride_bk)[:, :, None]
    gate_ptrs = gate_cols[None, :, :] + _along(k, stride_gk)[:, :, None]
    m_mask, n_mask = m_mask[None, :, :], n_mask[None, :, :]
    acc = tl.zeros((SPLIT_K, BM, BN), tl.float32)
    acc_gate = acc if GATED else 0.0
    for k0 in range(0, min(LENGTH, K), BK):
        k_mask = k < stop - k0
        a_mask = m_mask if EVEN_K else m_mask & k_mask[:, None, :]
        b_mask = n_mask if EVEN_K else n_mask & k_mask[:, :, None]
        a = _load(a_ptrs, a_mask, False)  # [S, BM, BK]
        acc = dot(a, _load(b_ptrs, b_mask, EVEN_N and EVEN_K), acc, TF32)  # [S, BK, BN]
        if GATED:
            acc_gate = dot(a, _load(gate_ptrs, b_mask, EVEN_N and EVEN_K), acc_gate, TF32)
            gate_ptrs += _along(BK, stride_gk)
        a_ptrs += _along(BK, stride_ak)
        b_ptrs += _along(BK, stride_bk)
    acc = _ascending(acc.permute(1, 2, 0), 0.0, False)
    if GATED:
        acc_gate = _ascending(acc_gate.permute(1, 2, 0), 0.0, False)
    return acc, acc_gate


@triton.jit
def _ascending(parts, total, STARTED: tl.constexpr):
    """The parts ``[M, N, S]`` added one after the other, to ``total`` if it is STARTED."""
    M: tl.constexpr = parts.shape[0]
    N: tl.constexpr = parts.shape[1]
    S: tl.constexpr = parts.shape[2]
    if S == 1:
        part = parts.reshape(M, N)
        return total + part if STARTED else part
    else:
        low, high = tl.split(parts.reshape(M, N, 2, S // 2).permute(0, 1, 3, 2))
        return _ascending(high, _ascending(low, total, STARTED), True)


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

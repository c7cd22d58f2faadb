"""Strategy ``decode`` on Hopper: the whole MLP in one launch, its weights streamed through a ring in shared memory.

A loader warp brings the weights of both layers by TMA and never waits for the hidden layer: the ring fills with w_down
while the programs hand h over. A second one brings x and, after the hand-over, h. A warpgroup multiplies.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

from parity.contract.plan import HOPPER_COLUMNS

from .._compat import load_tile, partition_barrier

# A tile's depth: 128 bytes, what one swizzle spans; and its rows of weights, what one instruction takes.
WIDE = gl.constexpr(64)
BN = gl.constexpr(HOPPER_COLUMNS)
TILE = gl.constexpr(gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2))


@gluon.jit(do_not_specialize=["M", "K", "H", "N"])
def decode_fwd_kernel(
    x_desc,
    up_desc,
    gate_desc,
    down_desc,
    h_desc,
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
    STAGES: gl.constexpr,
    TILES: gl.constexpr,
    AHEAD: gl.constexpr,
    ACTIVATION: gl.constexpr,
    GATED: gl.constexpr,
    BIAS_UP: gl.constexpr,
    BIAS_GATE: gl.constexpr,
    BIAS_DOWN: gl.constexpr,
    TAPS: gl.constexpr,
):
    """As the portable decode_fwd_kernel, for 16-bit types and one chain: one wgmma after the other in ascending K.

    x ``[M, K]``, w_up and gate ``[H, K]``, w_down ``[N, H]``, h ``[M, H]`` and y ``[M, N]``, all row-major.

    The weights are the 64-row operand of the tensor cores, straight from shared memory; x or h, BM rows with those
    beyond M zero, is the narrow one. A slot of the ring holds TILES tiles of weights (twice as many where there is a
    gate) and as many of x or h; at most AHEAD slots of weights are on their way at a time.
    """
    BM: gl.constexpr = x_desc.block_type.shape[0]
    DTYPE: gl.constexpr = x_desc.dtype
    HELD: gl.constexpr = 2 * TILES if GATED else TILES
    rows = gl.allocate_shared_memory(DTYPE, [STAGES * TILES, BM, WIDE], TILE)
    weights = gl.allocate_shared_memory(DTYPE, [STAGES * HELD, BN, WIDE], TILE)
    # Of each slot: its weights are there, its rows are there, it is free.
    weights_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    rows_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    written = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(weights_full.index(i), count=1)
        mbarrier.init(rows_full.index(i), count=1)
        mbarrier.init(free.index(i), count=1)
    mbarrier.init(written, count=1)

    gl.warp_specialize(
        [
            (
                _multiply,
                (
                    rows, weights, weights_full, rows_full, free, written, b_up_ptr, b_gate_ptr, b_down_ptr,
                    h_ptr, y_ptr, s_ptr, u_ptr, M, K, H, N,
                    TILES, ACTIVATION, GATED, BIAS_UP, BIAS_GATE, BIAS_DOWN, TAPS,
                ),
            ),
            (
                _load_weights,
                (up_desc, gate_desc, down_desc, weights, weights_full, free, K, H, N, HELD, TILES, AHEAD, GATED),
            ),
            (_load_rows, (x_desc, h_desc, rows, rows_full, free, written, arrivals_ptr, K, H, N, TILES)),
        ],
        [1, 1],
        [40, 40],
    )  # fmt: skip


@gluon.jit
def _load_weights(
    up_desc, gate_desc, down_desc, tiles, full, free, K, H, N,
    HELD: gl.constexpr, TILES: gl.constexpr, AHEAD: gl.constexpr, GATED: gl.constexpr,
):  # fmt: skip
    slot = 0
    for block in range(gl.program_id(0), H // BN, gl.num_programs(0)):
        slot = _stream(up_desc, gate_desc, block * BN, K, tiles, full, free, slot, HELD, TILES, AHEAD, GATED)
    for block in range(gl.program_id(0), N // BN, gl.num_programs(0)):
        slot = _stream(down_desc, down_desc, block * BN, H, tiles, full, free, slot, HELD, TILES, AHEAD, False)


@gluon.jit
def _load_rows(
    x_desc, h_desc, tiles, full, free, written, arrivals_ptr, K, H, N, TILES: gl.constexpr
):  # fmt: skip
    STAGES: gl.constexpr = full.shape[0]
    slot = 0
    for _ in range(gl.program_id(0), H // BN, gl.num_programs(0)):
        slot = _stream(x_desc, x_desc, 0, K, tiles, full, free, slot, TILES, TILES, STAGES, False)
    mbarrier.wait(written, 0)
    _hand_over(arrivals_ptr)
    for _ in range(gl.program_id(0), N // BN, gl.num_programs(0)):
        slot = _stream(h_desc, h_desc, 0, H, tiles, full, free, slot, TILES, TILES, STAGES, False)


@gluon.jit
def _stream(
    first, second, row, K, tiles, full, free, slot,
    HELD: gl.constexpr, TILES: gl.constexpr, AHEAD: gl.constexpr, PAIR: gl.constexpr,
):  # fmt: skip
    """Fills slots, HELD tiles each, with TILES tiles of the rows from ``row`` on, all of K; PAIR: of ``first`` and then
    of ``second``. What is outside of an operand comes as zeros."""
    STAGES: gl.constexpr = full.shape[0]
    for i in range(K // (TILES * WIDE)):
        stage = slot % STAGES
        mbarrier.wait(free.index(stage), (slot // STAGES & 1) ^ 1)
        if AHEAD < STAGES:
            # Programs that run ahead take the bandwidth of those that all wait for.
            earlier = slot - AHEAD
            mbarrier.wait(full.index((earlier + STAGES) % STAGES), earlier // STAGES & 1, pred=earlier >= 0)
        ready = full.index(stage)
        mbarrier.expect(ready, (2 * TILES if PAIR else TILES) * tiles.shape[1] * WIDE * 2)
        for tile in gl.static_range(TILES):
            at, k = stage * HELD + tile, (i * TILES + tile) * WIDE
            load_tile(first, [row, k], ready, tiles.index(at))
            if PAIR:
                load_tile(second, [row, k], ready, tiles.index(at + TILES))
        slot += 1
    return slot


@gluon.jit
def _hand_over(arrivals_ptr):
    """As kernels/handover.py, by one warp that has seen its program's h written."""
    programs = gl.num_programs(0)
    share = gl.where(gl.program_id(0) == 0, -2147483647 - programs, 1)
    before = gl.atomic_add(arrivals_ptr, share, sem="acq_rel", scope="gpu")
    while (before ^ _acquire(arrivals_ptr)) >= 0:
        pass
    # h was written by ordinary stores and will be read by TMA.
    _fence()


@gluon.jit
def _acquire(ptr):
    return gl.inline_asm_elementwise(
        "ld.acquire.gpu.global.b32 $0, [$1];", "=r,l", [ptr], dtype=gl.int32, is_pure=False, pack=1
    )


@gluon.jit
def _fence():
    gl.inline_asm_elementwise(
        "fence.proxy.async.global; mov.b32 $0, 0;", "=r,r", [0], dtype=gl.int32, is_pure=False, pack=1
    )


@gluon.jit
def _multiply(
    rows, weights, weights_full, rows_full, free, written, b_up_ptr, b_gate_ptr, b_down_ptr,
    h_ptr, y_ptr, s_ptr, u_ptr, M, K, H, N, TILES: gl.constexpr, ACTIVATION: gl.constexpr, GATED: gl.constexpr,
    BIAS_UP: gl.constexpr, BIAS_GATE: gl.constexpr, BIAS_DOWN: gl.constexpr, TAPS: gl.constexpr,
):  # fmt: skip
    BM: gl.constexpr = rows.shape[1]
    OUT: gl.constexpr = gl.BlockedLayout([2, 1], [32, 1], [1, gl.num_warps()], [0, 1])
    n = gl.arange(0, BN, gl.SliceLayout(1, OUT))[:, None]
    m = gl.arange(0, BM, gl.SliceLayout(0, OUT))[None, :]
    slot = 0
    for block in range(gl.program_id(0), H // BN, gl.num_programs(0)):
        at = block * BN + n
        # Asked for before the sums, so that nothing waits for them after.
        b_up = _bias(b_up_ptr + at, BIAS_UP)
        b_gate = _bias(b_gate_ptr + at, BIAS_GATE)
        acc, acc_gate, slot = _chain(rows, weights, weights_full, rows_full, free, slot, K, TILES, GATED)
        out = m * H + at
        mask = m < M
        u = gl.convert_layout(acc, OUT)  # [BN, BM]
        if BIAS_UP:
            u += b_up
        if GATED:
            s = gl.convert_layout(acc_gate, OUT)
            if BIAS_GATE:
                s += b_gate
            h = ACTIVATION(s) * u
        else:
            s = u
            h = ACTIVATION(s)
        if TAPS:
            gl.store(s_ptr + out, s.to(s_ptr.dtype.element_ty), mask=mask)
            if GATED:
                gl.store(u_ptr + out, u.to(u_ptr.dtype.element_ty), mask=mask)
        gl.store(h_ptr + out, h.to(h_ptr.dtype.element_ty), mask=mask)
    _fence()
    partition_barrier()
    mbarrier.arrive(written, count=1)

    for block in range(gl.program_id(0), N // BN, gl.num_programs(0)):
        at = block * BN + n
        b_down = _bias(b_down_ptr + at, BIAS_DOWN)
        acc, _, slot = _chain(rows, weights, weights_full, rows_full, free, slot, H, TILES, False)
        y = gl.convert_layout(acc, OUT)
        if BIAS_DOWN:
            y += b_down
        gl.store(y_ptr + m * N + at, y.to(y_ptr.dtype.element_ty), mask=m < M)


@gluon.jit
def _bias(ptrs, PRESENT: gl.constexpr):
    return gl.load(ptrs).to(gl.float32) if PRESENT else 0.0


@gluon.jit
def _chain(
    rows, weights, weights_full, rows_full, free, slot, K, TILES: gl.constexpr, PAIR: gl.constexpr
):  # fmt: skip
    """``[BN, BM]``: the sum over all of K, in ascending order; where there is a PAIR of weights, both."""
    STAGES: gl.constexpr = free.shape[0]
    HELD: gl.constexpr = weights.shape[0] // STAGES
    BM: gl.constexpr = rows.shape[1]
    ACC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, BM, 16])
    acc = gl.full([BN, BM], 0.0, gl.float32, ACC)
    acc_gate = acc
    for _ in range(K // (TILES * WIDE)):
        stage = slot % STAGES
        mbarrier.wait(weights_full.index(stage), slot // STAGES & 1)
        mbarrier.wait(rows_full.index(stage), slot // STAGES & 1)
        for tile in gl.static_range(TILES):
            w = stage * HELD + tile
            x = rows.index(stage * TILES + tile).permute((1, 0))
            acc = warpgroup_mma(weights.index(w), x, acc, is_async=True)
            if PAIR:
                acc_gate = warpgroup_mma(weights.index(w + TILES), x, acc_gate, is_async=True)
        if PAIR:
            acc, acc_gate = warpgroup_mma_wait(0, deps=(acc, acc_gate))
        else:
            acc = warpgroup_mma_wait(0, deps=(acc,))
        mbarrier.arrive(free.index(stage), count=1)
        slot += 1
    return acc, acc_gate, slot

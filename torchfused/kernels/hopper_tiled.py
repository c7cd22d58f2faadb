"""Strategy ``tiled`` on Hopper: one GEMM with its whole epilogue in one persistent launch; the MLP is two of them.

A loader warp brings the operands by TMA through a ring and never waits for an epilogue. Two warpgroups multiply, one
while the other finishes its tile (hopper_gemm.py).
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import tma

from .hopper_epilogue import put, staging
from .hopper_gemm import BK, begin, chain, floors, halves, load, ring, tile_of, wait_turn, zeros


@gluon.jit(do_not_specialize=["M", "N", "K", "GROUP_M"])
def linear_fwd_kernel(
    x_desc,
    w_desc,
    gate_desc,
    y_desc,
    s_desc,
    u_desc,
    b_ptr,
    b_gate_ptr,
    M,
    N,
    K,
    GROUP_M,
    BM: gl.constexpr,
    BN: gl.constexpr,
    STAGES: gl.constexpr,
    SHARED: gl.constexpr,
    ACTIVATION: gl.constexpr,
    GATED: gl.constexpr,
    BIAS: gl.constexpr,
    BIAS_GATE: gl.constexpr,
    TAPS: gl.constexpr,
):
    """As the portable linear_fwd_kernel, for 16-bit types and one chain.

    x ``[M, K]``, w and gate ``[N, K]``; y, s and u ``[M, N]``, all row-major.
    """
    WEIGHTS: gl.constexpr = 2 if GATED else 1
    # Taps in another type than y's have a room of their own.
    APART: gl.constexpr = TAPS and s_desc.dtype != y_desc.dtype
    BUFFERS: gl.constexpr = 1 if APART else 2
    a_tiles, b_tiles, full, free, turn = ring(x_desc.dtype, STAGES, [BM, BK], [WEIGHTS * BN, BK], SHARED)
    y_room = staging(y_desc, BUFFERS)
    s_room = staging(s_desc, BUFFERS) if APART else y_room
    u_room = staging(u_desc, BUFFERS) if APART and GATED else y_room
    gl.warp_specialize(
        [
            (
                _multiply,
                (
                    a_tiles, b_tiles, full, free, turn, y_desc, s_desc, u_desc, y_room, s_room, u_room, b_ptr,
                    b_gate_ptr, M, N, K, 0, SHARED, BM, BN, GROUP_M, ACTIVATION, GATED, BIAS, BIAS_GATE, TAPS,
                ),
            ),
            (
                _multiply,
                (
                    a_tiles, b_tiles, full, free, turn, y_desc, s_desc, u_desc, y_room, s_room, u_room, b_ptr,
                    b_gate_ptr, M, N, K, 1, SHARED, BM, BN, GROUP_M, ACTIVATION, GATED, BIAS, BIAS_GATE, TAPS,
                ),
            ),
            (
                load,
                (
                    x_desc, w_desc, gate_desc, x_desc, w_desc, a_tiles, b_tiles, full, free, M, N, K,
                    BM, BN, GROUP_M, True, True, GATED, False,
                ),
            ),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


@gluon.jit
def _multiply(
    a_tiles, b_tiles, full, free, turn, y_desc, s_desc, u_desc, y_room, s_room, u_room, b_ptr, b_gate_ptr,
    M, N, K, ME: gl.constexpr, SHARED: gl.constexpr, BM: gl.constexpr, BN: gl.constexpr, GROUP_M,
    ACTIVATION: gl.constexpr, GATED: gl.constexpr, BIAS: gl.constexpr, BIAS_GATE: gl.constexpr, TAPS: gl.constexpr,
):  # fmt: skip
    ROWS: gl.constexpr = BM // 2 if SHARED else BM
    COLUMNS: gl.constexpr = 2 * BN if GATED else BN
    ACROSS: gl.constexpr = BN // y_desc.block_type.shape[1]
    first, every, slot, between = begin(gl.cdiv(K, BK), ME, SHARED)
    tiles, part = 0, 0
    for tile in range(first, gl.cdiv(M, BM) * gl.cdiv(N, BN), every):
        row, column = tile_of(tile, M, N, BM, BN, GROUP_M)
        # Asked for before the sums, so that nothing waits for them after.
        b, b_gate = _bias(b_ptr, column, N, y_desc, BIAS), _bias(b_gate_ptr, column, N, y_desc, BIAS_GATE)
        wait_turn(turn, tiles, ME, SHARED)
        tiles += 1
        acc = zeros(ROWS, COLUMNS)
        acc, slot = chain(acc, a_tiles, b_tiles, full, free, turn, slot, K, ME, SHARED, True, True)
        slot += between
        if SHARED:
            row += ME * ROWS
        if GATED:
            gate, up = halves(acc)
        else:
            gate, up = acc, acc
        part, _, _ = _finish(
            gate, up, b, b_gate, y_desc, s_desc, u_desc, y_room, s_room, u_room, b_ptr, b_gate_ptr, row, column, N,
            part, ME, ACROSS, ACTIVATION, GATED, BIAS, BIAS_GATE, TAPS,
        )  # fmt: skip
    tma.store_wait(0)


@gluon.jit
def _finish(
    s, u, b, b_gate, y_desc, s_desc, u_desc, y_room, s_room, u_room, b_ptr, b_gate_ptr, row, column, N, part,
    ME: gl.constexpr, ACROSS: gl.constexpr, ACTIVATION: gl.constexpr, GATED: gl.constexpr,
    BIAS: gl.constexpr, BIAS_GATE: gl.constexpr, TAPS: gl.constexpr,
):  # fmt: skip
    """The epilogue of a tile, part after part as large as ``y_desc`` says, ACROSS of them side by side; so many parts
    have been before. All parts go through one piece of code: unrolled, it would not fit the instruction cache.

    b and b_gate: of the first part's columns; those of the part after the last are returned with the count of parts.
    """
    ROWS: gl.constexpr = y_desc.block_type.shape[0]
    WIDTH: gl.constexpr = y_desc.block_type.shape[1]
    if s.shape[0] > ROWS or s.shape[1] > WIDTH:
        WIDE: gl.constexpr = s.shape[0] == ROWS
        s, next_s = halves(s) if WIDE else floors(s)
        u, next_u = (halves(u) if WIDE else floors(u)) if GATED else (s, next_s)
        for _ in range(2):
            part, b, b_gate = _finish(
                s, u, b, b_gate, y_desc, s_desc, u_desc, y_room, s_room, u_room, b_ptr, b_gate_ptr, row, column, N,
                part, ME, ACROSS, ACTIVATION, GATED, BIAS, BIAS_GATE, TAPS,
            )  # fmt: skip
            if WIDE:
                column += s.shape[1]
            else:
                row += s.shape[0]
            s, u = next_s, next_u
        return part, b, b_gate
    else:
        across = part % ACROSS
        following = column + WIDTH - ACROSS * WIDTH * (across == ACROSS - 1)
        b_next = _bias(b_ptr, following, N, y_desc, BIAS)
        b_gate_next = _bias(b_gate_ptr, following, N, y_desc, BIAS_GATE)
        if GATED:
            if BIAS:
                u += gl.convert_layout(b, gl.SliceLayout(0, u.type.layout)).to(gl.float32)[None, :]
            if BIAS_GATE:
                s += gl.convert_layout(b_gate, gl.SliceLayout(0, s.type.layout)).to(gl.float32)[None, :]
            y = ACTIVATION(s) * u
        else:
            if BIAS:
                s += gl.convert_layout(b, gl.SliceLayout(0, s.type.layout)).to(gl.float32)[None, :]
            y = ACTIVATION(s)
        sent = part * ((3 if GATED else 2) if TAPS else 1)
        if TAPS:
            sent = put(s_desc, s_room, s, row, column, sent, ME)
            if GATED:
                sent = put(u_desc, u_room, u, row, column, sent, ME)
        put(y_desc, y_room, y, row, column, sent, ME)
        return part + 1, b_next, b_gate_next


@gluon.jit
def _bias(ptr, column, N, y_desc, PRESENT: gl.constexpr):
    """A bias' columns of one part of ``y_desc``; where there is none, what nobody reads."""
    if PRESENT:
        HELD: gl.constexpr = gl.NVMMADistributedLayout(
            [3, 0], [gl.num_warps(), 1], [16, y_desc.block_type.shape[1], 16]
        )
        n = column + gl.arange(0, y_desc.block_type.shape[1], gl.SliceLayout(0, HELD))
        return gl.load(ptr + n, mask=n < N, other=0.0)
    else:
        return column

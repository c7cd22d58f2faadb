"""Strategy ``tiled`` on Hopper: one GEMM with its whole epilogue in one persistent launch; the MLP is two of them.

A loader warp brings the operands by TMA through a ring and never waits for an epilogue. Two warpgroups multiply, one
while the other finishes its tile (hopper_gemm.py).
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import tma

from .hopper_epilogue import put, staging
from .hopper_gemm import BK, begin, chain, fill, floors, halves, ring, tile_of, wait_turn, zeros


@gluon.jit(do_not_specialize=["M", "N", "K"])
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
    BM: gl.constexpr,
    BN: gl.constexpr,
    STAGES: gl.constexpr,
    SHARED: gl.constexpr,
    GROUP_M: gl.constexpr,
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
    BUFFERS: gl.constexpr = 1 if TAPS else 2
    a_tiles, b_tiles, full, free, turn = ring(x_desc.dtype, STAGES, [BM, BK], [WEIGHTS * BN, BK], SHARED)
    y_room = staging(y_desc, BUFFERS)
    s_room = staging(s_desc, BUFFERS) if TAPS else y_room
    u_room = staging(u_desc, BUFFERS) if TAPS and GATED else y_room
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
                _load,
                (x_desc, w_desc, gate_desc, a_tiles, b_tiles, full, free, M, N, K, BM, BN, GROUP_M, GATED),
            ),
        ],
        [4, 1],
        [232, 40],
    )  # fmt: skip


@gluon.jit
def _load(
    x_desc, w_desc, gate_desc, a_tiles, b_tiles, full, free, M, N, K,
    BM: gl.constexpr, BN: gl.constexpr, GROUP_M: gl.constexpr, GATED: gl.constexpr,
):  # fmt: skip
    slot = 0
    for tile in range(gl.program_id(0), gl.cdiv(M, BM) * gl.cdiv(N, BN), gl.num_programs(0)):
        row, column = tile_of(tile, M, N, BM, BN, GROUP_M)
        slot = fill(
            x_desc, w_desc, gate_desc, a_tiles, b_tiles, full, free, slot, row, column, K, True, True, GATED
        )  # fmt: skip


@gluon.jit
def _multiply(
    a_tiles, b_tiles, full, free, turn, y_desc, s_desc, u_desc, y_room, s_room, u_room, b_ptr, b_gate_ptr,
    M, N, K, ME: gl.constexpr, SHARED: gl.constexpr, BM: gl.constexpr, BN: gl.constexpr, GROUP_M: gl.constexpr,
    ACTIVATION: gl.constexpr, GATED: gl.constexpr, BIAS: gl.constexpr, BIAS_GATE: gl.constexpr, TAPS: gl.constexpr,
):  # fmt: skip
    ROWS: gl.constexpr = BM // 2 if SHARED else BM
    COLUMNS: gl.constexpr = 2 * BN if GATED else BN
    first, every, slot, between = begin(gl.cdiv(K, BK), ME, SHARED)
    tiles = 0
    for tile in range(first, gl.cdiv(M, BM) * gl.cdiv(N, BN), every):
        row, column = tile_of(tile, M, N, BM, BN, GROUP_M)
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
        _finish(
            gate, up, y_desc, s_desc, u_desc, y_room, s_room, u_room, b_ptr, b_gate_ptr, row,
            column, N, ME, 0, ACTIVATION, GATED, BIAS, BIAS_GATE, TAPS,
        )  # fmt: skip
    tma.store_wait(0)


@gluon.jit
def _finish(
    s, u, y_desc, s_desc, u_desc, y_room, s_room, u_room, b_ptr, b_gate_ptr, row, column, N,
    ME: gl.constexpr, PART: gl.constexpr,
    ACTIVATION: gl.constexpr, GATED: gl.constexpr, BIAS: gl.constexpr, BIAS_GATE: gl.constexpr, TAPS: gl.constexpr,
):  # fmt: skip
    """The epilogue of all parts of s and u, as large as ``y_desc`` says, from the PART-th on."""
    ROWS: gl.constexpr = y_desc.block_type.shape[0]
    COLUMNS: gl.constexpr = y_desc.block_type.shape[1]
    if s.shape[0] > ROWS or s.shape[1] > COLUMNS:
        ACROSS: gl.constexpr = s.shape[0] == ROWS
        first, second = halves(s) if ACROSS else floors(s)
        first_u, second_u = (halves(u) if ACROSS else floors(u)) if GATED else (first, second)
        _finish(
            first, first_u, y_desc, s_desc, u_desc, y_room, s_room, u_room, b_ptr, b_gate_ptr, row, column, N,
            ME, PART, ACTIVATION, GATED, BIAS, BIAS_GATE, TAPS,
        )  # fmt: skip
        _finish(
            second, second_u, y_desc, s_desc, u_desc, y_room, s_room, u_room, b_ptr, b_gate_ptr,
            row + (0 if ACROSS else first.shape[0]), column + (first.shape[1] if ACROSS else 0), N,
            ME, PART + first.shape[0] * first.shape[1] // (ROWS * COLUMNS), ACTIVATION, GATED, BIAS, BIAS_GATE, TAPS,
        )  # fmt: skip
    else:
        n = column + gl.arange(0, COLUMNS, gl.SliceLayout(0, s.type.layout))
        if GATED:
            if BIAS:
                u += gl.load(b_ptr + n, mask=n < N, other=0.0).to(gl.float32)[None, :]
            if BIAS_GATE:
                s += gl.load(b_gate_ptr + n, mask=n < N, other=0.0).to(gl.float32)[None, :]
            y = ACTIVATION(s) * u
        else:
            if BIAS:
                s += gl.load(b_ptr + n, mask=n < N, other=0.0).to(gl.float32)[None, :]
            y = ACTIVATION(s)
        BUFFERS: gl.constexpr = y_room.shape[0] // 2
        ROOM: gl.constexpr = ME * BUFFERS + PART % BUFFERS
        # What was sent from here before has been read: all but what the part before this one sent.
        tma.store_wait(BUFFERS - 1)
        if TAPS:
            put(s_desc, s_room, s, row, column, ROOM)
            if GATED:
                put(u_desc, u_room, u, row, column, ROOM)
        put(y_desc, y_room, y, row, column, ROOM)

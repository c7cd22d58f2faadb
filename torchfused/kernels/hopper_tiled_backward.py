"""The backward of strategy ``tiled`` on Hopper: the hidden layer's gradient with its epilogue, and products."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

from .._compat import load_tile
from .hopper_epilogue import put, staging
from .hopper_gemm import BK, begin, chain, floors, halves, load, ring, tile_of, wait_turn, zeros


@gluon.jit(do_not_specialize=["M", "N", "K", "GROUP_M"])
def hidden_bwd_kernel(
    dy_desc,
    w_desc,
    s_desc,
    u_desc,
    h_desc,
    ds_desc,
    du_desc,
    M,
    N,
    K,
    GROUP_M,
    BM: gl.constexpr,
    BN: gl.constexpr,
    STAGES: gl.constexpr,
    ACTIVATION: gl.constexpr,
    DERIVATIVE: gl.constexpr,
    GATED: gl.constexpr,
    HIDDEN: gl.constexpr,
):
    """As the portable hidden_bwd_kernel, for 16-bit types.

    dy ``[M, K]``, w ``[K, N]``; s, u, h, ds, du ``[M, N]``, all row-major. The warpgroups take turns. A second loader
    warp brings s and u, a part of a tile at a time.
    """
    a_tiles, b_tiles, full, free, turn = ring(dy_desc.dtype, STAGES, [BM, BK], [BK, BN], False)
    # A part of s and of u, or two of s alone.
    BOXES: gl.constexpr = 1 if GATED else 2
    s_room, room = staging(s_desc, BOXES), staging(ds_desc, 2)
    u_room = staging(u_desc, BOXES) if GATED else s_room
    there = gl.allocate_shared_memory(gl.int64, [2 * BOXES, 1], mbarrier.MBarrierLayout())
    taken = gl.allocate_shared_memory(gl.int64, [2 * BOXES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(2 * BOXES):
        mbarrier.init(there.index(i), count=1)
        mbarrier.init(taken.index(i), count=1)
    gl.warp_specialize(
        [
            (
                _hidden,
                (
                    a_tiles, b_tiles, full, free, turn, h_desc, ds_desc, du_desc, s_room, u_room, room,
                    there, taken, M, N, K, 0, BM, BN, GROUP_M, ACTIVATION, DERIVATIVE, GATED, HIDDEN,
                ),
            ),
            (
                _hidden,
                (
                    a_tiles, b_tiles, full, free, turn, h_desc, ds_desc, du_desc, s_room, u_room, room,
                    there, taken, M, N, K, 1, BM, BN, GROUP_M, ACTIVATION, DERIVATIVE, GATED, HIDDEN,
                ),
            ),
            (
                load,
                (
                    dy_desc, w_desc, w_desc, dy_desc, w_desc, a_tiles, b_tiles, full, free, M, N, K,
                    BM, BN, GROUP_M, True, False, False, False,
                ),
            ),
            (_load_saved, (s_desc, u_desc, s_room, u_room, there, taken, M, N, BM, BN, GROUP_M, GATED)),
        ],
        [4, 1, 1],
        [240, 24, 24],
    )  # fmt: skip


@gluon.jit
def _load_saved(
    s_desc, u_desc, s_room, u_room, there, taken, M, N,
    BM: gl.constexpr, BN: gl.constexpr, GROUP_M, GATED: gl.constexpr,
):  # fmt: skip
    """Part after part of s and u, for the warpgroups in turns, in the order in which ``_finish`` wants them."""
    BOXES: gl.constexpr = there.shape[0] // 2
    ROWS: gl.constexpr = s_desc.block_type.shape[0]
    WIDTH: gl.constexpr = s_desc.block_type.shape[1]
    ACROSS: gl.constexpr = BN // WIDTH
    PARTS: gl.constexpr = BM // ROWS * ACROSS
    turn = 0
    for tile in range(gl.program_id(0), gl.cdiv(M, BM) * gl.cdiv(N, BN), gl.num_programs(0)):
        row, column = tile_of(tile, M, N, BM, BN, GROUP_M)
        for part in range(PARTS):
            before = turn // 2 * PARTS + part
            at = [row + part // ACROSS * ROWS, column + part % ACROSS * WIDTH]
            box = turn % 2 * BOXES + before % BOXES
            ready = there.index(box)
            mbarrier.wait(taken.index(box), (before // BOXES & 1) ^ 1)
            mbarrier.expect(ready, (2 if GATED else 1) * ROWS * WIDTH * 2)
            load_tile(s_desc, at, ready, s_room.index(box))
            if GATED:
                load_tile(u_desc, at, ready, u_room.index(box))
        turn += 1


@gluon.jit
def _hidden(
    a_tiles, b_tiles, full, free, turn, h_desc, ds_desc, du_desc, s_room, u_room, room, there, taken, M, N, K,
    ME: gl.constexpr, BM: gl.constexpr, BN: gl.constexpr, GROUP_M,
    ACTIVATION: gl.constexpr, DERIVATIVE: gl.constexpr, GATED: gl.constexpr, HIDDEN: gl.constexpr,
):  # fmt: skip
    first, every, slot, between = begin(gl.cdiv(K, BK), ME, False)
    tiles, part = 0, 0
    for tile in range(first, gl.cdiv(M, BM) * gl.cdiv(N, BN), every):
        row, column = tile_of(tile, M, N, BM, BN, GROUP_M)
        wait_turn(turn, tiles, ME, False)
        tiles += 1
        dh = zeros(BM, BN)
        dh, slot = chain(dh, a_tiles, b_tiles, full, free, turn, slot, K, ME, False, True, False)
        slot += between
        part = _finish(
            dh, h_desc, ds_desc, du_desc, s_room, u_room, room, there, taken, part, row, column, ME,
            ACTIVATION, DERIVATIVE, GATED, HIDDEN,
        )  # fmt: skip
    tma.store_wait(0)


@gluon.jit
def _finish(
    dh, h_desc, ds_desc, du_desc, s_room, u_room, room, there, taken, part, row, column, ME: gl.constexpr,
    ACTIVATION: gl.constexpr, DERIVATIVE: gl.constexpr, GATED: gl.constexpr, HIDDEN: gl.constexpr,
):  # fmt: skip
    """The epilogue of dh, part after part as large as ``ds_desc`` says; so many parts have been before."""
    ROWS: gl.constexpr = ds_desc.block_type.shape[0]
    if dh.shape[0] > ROWS or dh.shape[1] > ds_desc.block_type.shape[1]:
        ACROSS: gl.constexpr = dh.shape[0] == ROWS
        dh, next_dh = halves(dh) if ACROSS else floors(dh)
        for _ in range(2):
            part = _finish(
                dh, h_desc, ds_desc, du_desc, s_room, u_room, room, there, taken, part, row, column, ME,
                ACTIVATION, DERIVATIVE, GATED, HIDDEN,
            )  # fmt: skip
            if ACROSS:
                column += dh.shape[1]
            else:
                row += dh.shape[0]
            dh = next_dh
        return part
    else:
        BOXES: gl.constexpr = there.shape[0] // 2
        box = ME * BOXES + part % BOXES
        mbarrier.wait(there.index(box), part // BOXES & 1)
        s = s_room.index(box).load(dh.type.layout).to(gl.float32)
        u = u_room.index(box).load(dh.type.layout).to(gl.float32) if GATED else s
        # Before TMA writes what ordinary loads have read.
        fence_async_shared()
        mbarrier.arrive(taken.index(box), count=1)
        sent = part * (1 + GATED + HIDDEN)
        if GATED:
            sent = put(ds_desc, room, (dh * u) * DERIVATIVE(s), row, column, sent, ME)
            f = ACTIVATION(s)
            sent = put(du_desc, room, dh * f, row, column, sent, ME)
            if HIDDEN:
                put(h_desc, room, f * u, row, column, sent, ME)
        else:
            sent = put(ds_desc, room, dh * DERIVATIVE(s), row, column, sent, ME)
            if HIDDEN:
                put(h_desc, room, ACTIVATION(s), row, column, sent, ME)
        return part + 1


@gluon.jit(do_not_specialize=["M", "N", "K", "GROUP_M"])
def product_bwd_kernel(
    a_desc,
    b_desc,
    a2_desc,
    b2_desc,
    y_desc,
    M,
    N,
    K,
    GROUP_M,
    BM: gl.constexpr,
    BN: gl.constexpr,
    STAGES: gl.constexpr,
    SHARED: gl.constexpr,
    A_ROWS: gl.constexpr,
    B_ROWS: gl.constexpr,
    PAIR: gl.constexpr,
):
    """As the portable product_bwd_kernel, for 16-bit types.

    a, a2 ``[M, K]`` where A_ROWS, else ``[K, M]``; b, b2 ``[N, K]`` where B_ROWS, else ``[K, N]``; y ``[M, N]``, all
    row-major.
    """
    a_tiles, b_tiles, full, free, turn = ring(
        a_desc.dtype, STAGES, [BM, BK] if A_ROWS else [BK, BM], [BN, BK] if B_ROWS else [BK, BN], SHARED
    )
    y_room = staging(y_desc, 2)
    gl.warp_specialize(
        [
            (_product, (a_tiles, b_tiles, full, free, turn, y_desc, y_room, M, N, K, 0, SHARED, BM, BN, GROUP_M,
                A_ROWS, B_ROWS, PAIR)),
            (_product, (a_tiles, b_tiles, full, free, turn, y_desc, y_room, M, N, K, 1, SHARED, BM, BN, GROUP_M,
                A_ROWS, B_ROWS, PAIR)),
            (load, (a_desc, b_desc, b_desc, a2_desc, b2_desc, a_tiles, b_tiles, full, free, M, N, K, BM, BN, GROUP_M,
                A_ROWS, B_ROWS, False, PAIR)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


@gluon.jit
def _product(
    a_tiles, b_tiles, full, free, turn, y_desc, y_room, M, N, K,
    ME: gl.constexpr, SHARED: gl.constexpr, BM: gl.constexpr, BN: gl.constexpr, GROUP_M,
    A_ROWS: gl.constexpr, B_ROWS: gl.constexpr, PAIR: gl.constexpr,
):  # fmt: skip
    ROWS: gl.constexpr = BM // 2 if SHARED else BM
    first, every, slot, between = begin(gl.cdiv(K, BK) * (2 if PAIR else 1), ME, SHARED)
    tiles, part = 0, 0
    for tile in range(first, gl.cdiv(M, BM) * gl.cdiv(N, BN), every):
        row, column = tile_of(tile, M, N, BM, BN, GROUP_M)
        wait_turn(turn, tiles, ME, SHARED)
        tiles += 1
        acc = zeros(ROWS, BN)
        acc, slot = chain(acc, a_tiles, b_tiles, full, free, turn, slot, K, ME, SHARED, A_ROWS, B_ROWS, not PAIR)
        if PAIR:
            acc, slot = chain(acc, a_tiles, b_tiles, full, free, turn, slot, K, ME, SHARED, A_ROWS, B_ROWS)
        slot += between
        if SHARED:
            row += ME * ROWS
        part = _write(acc, y_desc, y_room, row, column, part, ME)
    tma.store_wait(0)


@gluon.jit
def _write(y, y_desc, y_room, row, column, part, ME: gl.constexpr):
    """All of y, part after part as large as ``y_desc`` says; so many parts have been before."""
    ROWS: gl.constexpr = y_desc.block_type.shape[0]
    if y.shape[0] > ROWS or y.shape[1] > y_desc.block_type.shape[1]:
        ACROSS: gl.constexpr = y.shape[0] == ROWS
        y, next_y = halves(y) if ACROSS else floors(y)
        for _ in gl.static_range(2):
            part = _write(y, y_desc, y_room, row, column, part, ME)
            if ACROSS:
                column += y.shape[1]
            else:
                row += y.shape[0]
            y = next_y
        return part
    else:
        return put(y_desc, y_room, y, row, column, part, ME)

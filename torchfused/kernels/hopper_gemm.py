"""What the GEMMs of strategy ``tiled`` on Hopper share: a ring of operand tiles in shared memory, filled by TMA and
emptied by two warpgroups that multiply.

The widest tiles are SHARED: each warpgroup computes half of the rows, the first a few steps ahead. Others are computed
by one warpgroup each, in turn, so that one multiplies while the other finishes its tile."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

from parity.contract.hopper_tiles import DEPTH, LAG

from .._compat import load_tile

BK = gl.constexpr(DEPTH)
TILE = gl.constexpr(gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2))
_LAG = gl.constexpr(LAG)


@gluon.jit
def tile_of(tile, M, N, BM: gl.constexpr, BN: gl.constexpr, GROUP_M):
    """The first row and column of a tile; GROUP_M rows of tiles share their columns' operand in L2."""
    tiles_m = gl.cdiv(M, BM)
    tiles_n = gl.cdiv(N, BN)
    group = tile // (GROUP_M * tiles_n)
    rows = min(tiles_m - group * GROUP_M, GROUP_M)
    row = group * GROUP_M + (tile % (GROUP_M * tiles_n)) % rows
    return row * BM, (tile % (GROUP_M * tiles_n)) // rows * BN


@gluon.jit
def ring(DTYPE: gl.constexpr, STAGES: gl.constexpr, A: gl.constexpr, B: gl.constexpr, SHARED: gl.constexpr):
    """Tiles of the shapes A and B; of each slot whether it is full and whether it is free; and whose turn it is."""
    a_tiles = gl.allocate_shared_memory(DTYPE, [STAGES, A[0], A[1]], TILE)
    b_tiles = gl.allocate_shared_memory(DTYPE, [STAGES, B[0], B[1]], TILE)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    turn = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(free.index(i), count=2 if SHARED else 1)
    for i in gl.static_range(2):
        mbarrier.init(turn.index(i), count=1)
    return a_tiles, b_tiles, full, free, turn


@gluon.jit
def fill(
    a_desc, b_desc, gate_desc, a_tiles, b_tiles, full, free, slot, row, column, K,
    A_ROWS: gl.constexpr, B_ROWS: gl.constexpr, GATED: gl.constexpr,
):  # fmt: skip
    """Fills slots with all of K of a tile's operands; A_ROWS, B_ROWS: that operand's rows lie along the result, else
    along K. Of two weights, in rows, the gate's tile comes first. What is outside of an operand comes as zeros."""
    STAGES: gl.constexpr = full.shape[0]
    BN: gl.constexpr = b_desc.block_type.shape[0 if B_ROWS else 1]
    BYTES: gl.constexpr = 2 * (a_tiles.shape[1] * a_tiles.shape[2] + b_tiles.shape[1] * b_tiles.shape[2])
    for k in range(0, K, BK):
        stage = slot % STAGES
        mbarrier.wait(free.index(stage), (slot // STAGES & 1) ^ 1)
        ready = full.index(stage)
        mbarrier.expect(ready, BYTES)
        load_tile(a_desc, [row, k] if A_ROWS else [k, row], ready, a_tiles.index(stage))
        b = b_tiles.index(stage)
        at = [column, k] if B_ROWS else [k, column]
        if GATED:
            load_tile(gate_desc, at, ready, b.slice(0, BN, dim=0))
            load_tile(b_desc, at, ready, b.slice(BN, BN, dim=0))
        else:
            load_tile(b_desc, at, ready, b)
        slot += 1
    return slot


@gluon.jit
def load(
    a_desc, b_desc, gate_desc, a2_desc, b2_desc, a_tiles, b_tiles, full, free, M, N, K,
    BM: gl.constexpr, BN: gl.constexpr, GROUP_M,
    A_ROWS: gl.constexpr, B_ROWS: gl.constexpr, GATED: gl.constexpr, PAIR: gl.constexpr,
):  # fmt: skip
    """The loader's part: all tiles of a program; PAIR: of a second product too."""
    slot = 0
    for tile in range(gl.program_id(0), gl.cdiv(M, BM) * gl.cdiv(N, BN), gl.num_programs(0)):
        row, column = tile_of(tile, M, N, BM, BN, GROUP_M)
        slot = fill(
            a_desc, b_desc, gate_desc, a_tiles, b_tiles, full, free, slot, row, column, K, A_ROWS, B_ROWS, GATED
        )  # fmt: skip
        if PAIR:
            slot = fill(
                a2_desc, b2_desc, b2_desc, a_tiles, b_tiles, full, free, slot, row, column, K, A_ROWS, B_ROWS, False
            )  # fmt: skip


@gluon.jit
def begin(steps, ME: gl.constexpr, SHARED: gl.constexpr):
    """A warpgroup's first tile, how many tiles it goes on at a time, the slots before it, and the slots it leaves out
    after each, of so many ``steps``."""
    if SHARED:
        return gl.program_id(0), gl.num_programs(0), 0, 0
    else:
        return gl.program_id(0) + ME * gl.num_programs(0), 2 * gl.num_programs(0), ME * steps, steps


@gluon.jit
def wait_turn(turn, tiles, ME: gl.constexpr, SHARED: gl.constexpr):
    """Before a warpgroup's next tile, ``tiles`` after its first. Where tiles are SHARED, the second starts behind the
    first, once. Else each waits until the other has seen its own tile's last slot filled: a slot is known by the parity
    of its use alone, and whoever looked further ahead would take the last use but one for it."""
    if not SHARED:
        mbarrier.wait(turn.index(ME), (tiles + 1 - ME) & 1)
    elif ME == 1:
        mbarrier.wait(turn.index(1), 0)


@gluon.jit
def chain(
    acc, a_tiles, b_tiles, full, free, turn, slot, K,
    ME: gl.constexpr, SHARED: gl.constexpr, A_ROWS: gl.constexpr, B_ROWS: gl.constexpr, LAST: gl.constexpr = True,
):  # fmt: skip
    """``acc`` and the products of all of K, ascending, of this warpgroup's rows. A slot is free again when the next
    one's products are under way. LAST: nothing more is added to this tile."""
    STAGES: gl.constexpr = full.shape[0]
    ROWS: gl.constexpr = acc.shape[0]
    FIRST: gl.constexpr = ME * ROWS if SHARED else 0
    steps = gl.cdiv(K, BK)
    for i in range(steps):
        stage = slot % STAGES
        mbarrier.wait(full.index(stage), slot // STAGES & 1)
        a, b = a_tiles.index(stage), b_tiles.index(stage)
        a = a.slice(FIRST, ROWS, dim=0) if A_ROWS else a.slice(FIRST, ROWS, dim=1).permute((1, 0))
        b = b.permute((1, 0)) if B_ROWS else b
        acc = warpgroup_mma(a, b, acc, is_async=True)
        acc = warpgroup_mma_wait(1, deps=(acc,))
        mbarrier.arrive(free.index((slot + STAGES - 1) % STAGES), count=1, pred=i > 0)
        if SHARED and ME == 0:
            mbarrier.arrive(turn.index(1), count=1, pred=slot == min(_LAG, steps) - 1)
        if LAST and not SHARED:
            mbarrier.arrive(turn.index(1 - ME), count=1, pred=i == steps - 1)
        slot += 1
    acc = warpgroup_mma_wait(0, deps=(acc,))
    mbarrier.arrive(free.index((slot + STAGES - 1) % STAGES), count=1)
    return acc, slot


@gluon.jit
def zeros(ROWS: gl.constexpr, COLUMNS: gl.constexpr):
    """An accumulator as wgmma holds it."""
    LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, COLUMNS, 16])
    return gl.full([ROWS, COLUMNS], 0.0, gl.float32, LAYOUT)


@gluon.jit
def halves(tile):
    """The left and the right half of a tile's columns: of an accumulator, which of a thread's registers."""
    return tile.reshape([tile.shape[0], 2, tile.shape[1] // 2]).permute([0, 2, 1]).split()


@gluon.jit
def floors(tile):
    """The upper and the lower half of a tile's rows, likewise."""
    return tile.reshape([2, tile.shape[0] // 2, tile.shape[1]]).permute([1, 2, 0]).split()

"""What all hopper GEMM kernels share: a persistent program's tiles, the ring that its operands come through, the chain.

Three warpgroups: two multiply and the third loads by TMA. The widest tiles are shared: each warpgroup computes half of
the rows, the first a few steps ahead. Others are computed by one warpgroup each, in turn, so that one multiplies while
the other finishes its tile.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from parity.contract.hopper_tiles import DEPTH, LAG
from parity.contract.tiles import Tiles

from .hopper_epilogue import ROWS, WIDTH, Source, Staging, staging_memory
from .hopper_wgmma import SWIZZLE, begin, read, zeros

# Those that multiply, and all.
MULTIPLIERS, WARPGROUPS = 2, 3
# Buffers of a warpgroup that results go out through.
BLOCKS = 2
# Registers of a thread that multiplies and of one that loads.
_MULTIPLIER, _LOADER = 232, 40


class Operand(NamedTuple):
    """A matrix of a product: a left one ``[M, K]``, a right one ``[K, N]``. ``transposed``: the ref holds it the other
    way around.

    Where K is not the ref's last axis, the other may be split, ``[K, N / DEPTH, DEPTH]``: one copy for a tile.
    """

    ref: jax.Ref
    transposed: bool = False


class Product(NamedTuple):
    """``a b`` for each of ``bs``: as many sums."""

    a: Operand
    bs: tuple[Operand, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """An ``[M, N]`` result in tiles, and, what only changes speed, whether the warpgroups share each, the stages of the
    ring, how many programs form a cluster, whose tiles lie one below the other and whose right operand is brought once
    for all, and how many rows of clusters share their columns' operand in L2."""

    M: int
    N: int
    K: int
    tiles: Tiles
    shared: bool
    stages: int
    cluster: int
    group_m: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of clusters."""
        return pl.cdiv(self.M, self.tiles.m * self.cluster), pl.cdiv(self.N, self.tiles.n)

    @property
    def rows(self) -> int:
        """Those of a tile that one warpgroup computes."""
        return self.tiles.m // MULTIPLIERS if self.shared else self.tiles.m

    @property
    def steps(self) -> int:
        """Those of one product's sum."""
        return pl.cdiv(self.K, DEPTH)


class _Side(NamedTuple):
    """``slots`` ``[stages, ...]`` in shared memory for the left operand or for all right ones, one after the other: one
    wgmma multiplies them all; the rows or columns of a tile of each."""

    slots: Any
    size: int
    k_minor: bool

    def tile(self, slot: Array, operand: int) -> Any:
        length = self.size if self.k_minor else self.size // DEPTH
        return self.slots.at[slot, pl.ds(operand * length, length)]


class _Ring(NamedTuple):
    """Operands, and of each slot whether it is full and whether it is free. A barrier is known by the parity of its use
    alone: for tiles of one warpgroup each, there are as many ``full`` as the two have slots, so that neither misses a
    use."""

    a: _Side
    b: _Side
    full: Any
    free: Any


def gemm_body(
    products: Sequence[Product], cut: Cut, kinds: Sequence[Any],
    source: Source, finish: Callable[..., None],
) -> None:  # fmt: skip
    """All that a program does: the sums of ``products``, one chain, all of the first, then the next.

    ``finish(staging, m, n, given, *sums)`` of each part ``[ROWS, WIDTH]`` of a tile, from row m and column n on, one
    sum for each right operand; ``given``: what ``source`` has of it, asked for before the part before it is finished.
    All parts go through one piece of code: unrolled, it would not fit the instruction cache. ``kinds``: the results'
    types.
    """
    first = products[0]

    def run(a_slots, b_slots, full, free, ahead, staging):
        a = _Side(a_slots, cut.tiles.m, not first.a.transposed)
        ring = _Ring(a, _Side(b_slots, cut.tiles.n, first.bs[0].transposed), full, free)
        warpgroup = lax.axis_index("warpgroup")

        @pl.when(warpgroup < MULTIPLIERS)
        def _multiply():
            plgpu.set_max_registers(_MULTIPLIER, action="increase")
            if cut.shared:
                # One finishes a tile while the other multiplies.
                pl.when(warpgroup == 1)(lambda: plgpu.barrier_wait(ahead))
            _tiles(products, cut, ring, ahead, staging, source, finish)

        @pl.when(warpgroup == MULTIPLIERS)
        def _load():
            plgpu.set_max_registers(_LOADER, action="decrease")
            _stream(products, cut, ring)

    copies = _copies(first.a, cut.tiles.m, not first.a.transposed)
    copies += sum(_copies(b, cut.tiles.n, b.transposed) for b in first.bs)
    pl.run_scoped(
        run,
        _slots(first.a, cut.tiles.m, not first.a.transposed, cut.stages),
        _slots(first.bs[0], cut.tiles.n * len(first.bs), first.bs[0].transposed, cut.stages),
        plgpu.Barrier(num_arrivals=copies, num_barriers=cut.stages * (1 if cut.shared else MULTIPLIERS)),
        plgpu.ClusterBarrier(
            collective_axes=("cluster",), num_arrivals=MULTIPLIERS if cut.shared else 1, num_barriers=cut.stages
        ),
        plgpu.Barrier() if cut.shared else None,
        staging_memory(MULTIPLIERS, BLOCKS, kinds),
        collective_axes="warpgroup",
    )


def _slots(operand: Operand, size: int, k_minor: bool, stages: int) -> Any:
    shape = (size, DEPTH) if k_minor else (size // DEPTH, DEPTH, DEPTH)
    return plgpu.SMEM((stages, *shape), operand.ref.dtype, transforms=SWIZZLE)


def _mine(cut: Cut) -> Array:
    """How many tiles this program has: those of p, p + P, ... of P clusters."""
    clusters = lax.axis_size("program")
    return lax.div(math.prod(cut.grid) + clusters - 1 - lax.axis_index("program"), jnp.int32(clusters))


def _tile(cut: Cut, t: Array) -> tuple[Array, Array]:
    """The first row and column of this program's so-manieth tile; group_m rows of clusters share their columns'
    operand in L2."""
    index = lax.axis_index("program") + t * lax.axis_size("program")
    rows, columns = cut.grid
    width = jnp.int32(cut.group_m * columns)
    group, within = lax.div(index, width), lax.rem(index, width)
    rows = jnp.minimum(rows - group * cut.group_m, cut.group_m)
    row = (group * cut.group_m + lax.rem(within, rows)) * cut.cluster + lax.axis_index("cluster")
    return row * cut.tiles.m, lax.div(within, rows) * cut.tiles.n


def _slot(i: Array, cut: Cut) -> Array:
    return lax.rem(i, jnp.int32(cut.stages))


def _full(ring: _Ring, slot: Array, owner: Array, cut: Cut) -> Any:
    """Of a slot with operands of the warpgroup ``owner``'s tile, or of a shared one."""
    return ring.full.at[slot if cut.shared else owner * cut.stages + slot]


def _stream(products: Sequence[Product], cut: Cut, ring: _Ring) -> None:
    """What the warpgroup that loads does."""
    steps = cut.steps * len(products)

    def freed(i):
        plgpu.barrier_wait(ring.free.at[_slot(i, cut)])

    def tile(t, _):
        m, n = _tile(cut, t)
        for p, product in enumerate(products):

            def step(k, _, p=p, product=product):
                i = t * steps + p * cut.steps + k
                slot = _slot(i, cut)
                full = _full(ring, slot, lax.rem(t, MULTIPLIERS), cut)
                pl.when(i >= cut.stages)(lambda: freed(i))
                _fetch(product.a, ring.a, ring.a.tile(slot, 0), m, k * DEPTH, full)
                for which, operand in enumerate(product.bs):
                    _fetch(operand, ring.b, ring.b.tile(slot, which), n, k * DEPTH, full, "cluster")

            lax.fori_loop(0, cut.steps, step, None)

    lax.fori_loop(0, _mine(cut), tile, None)
    if cut.cluster > 1:
        # None may end while the other still frees its slots.
        last = _mine(cut) * steps
        lax.fori_loop(jnp.maximum(0, last - cut.stages), last, lambda i, _: freed(i), None)


def _split(operand: Operand) -> bool:
    return len(operand.ref.shape) == 3


def _copies(operand: Operand, size: int, k_minor: bool) -> int:
    return 1 if k_minor or _split(operand) else size // DEPTH


def _fetch(
    operand: Operand, side: _Side, tile: Any, first: Array, k: Array, full: Any, together: str | None = None
) -> None:
    """Into ``tile``, that of ``operand`` from row or column ``first`` on; of all programs along the axis ``together``,
    each of which brings its share. What lies past the edges comes as zeros."""
    ref, terms = operand.ref, pl.ds(k, DEPTH)
    copy = partial(plgpu.copy_gmem_to_smem, barrier=full, collective_axes=together)
    if side.k_minor:
        copy(ref.at[pl.ds(first, side.size), terms], tile)
    elif _split(operand):
        blocks = pl.ds(lax.div(first, jnp.int32(DEPTH)), side.size // DEPTH)
        copy(ref.at[terms, blocks], tile.transpose((1, 0, 2)))
    else:
        for j in range(side.size // DEPTH):
            copy(ref.at[terms, pl.ds(first + j * DEPTH, DEPTH)], tile.at[j])


def _tiles(
    products: Sequence[Product], cut: Cut, ring: _Ring, ahead: Any, staging: dict[Any, Any], source: Source,
    finish: Callable[..., None],
) -> None:  # fmt: skip
    """What a multiplying warpgroup does."""
    warpgroup = lax.axis_index("warpgroup")
    steps = cut.steps * len(products)
    across = cut.tiles.n // WIDTH
    parts = cut.rows // ROWS * across
    count = _mine(cut)
    if not cut.shared:
        count = lax.div(count + MULTIPLIERS - 1 - warpgroup, MULTIPLIERS)
    held = {kind: buffers.at[warpgroup] for kind, buffers in staging.items()}

    def tile(t, copies):
        t = t if cut.shared else t * MULTIPLIERS + warpgroup
        m, n = _tile(cut, t)
        m += warpgroup * cut.rows if cut.shared else 0
        # Asked for before the sums, so that nothing waits for it after.
        asked = source.ask(m, n, True)
        acc = _chain(ring, cut, t * steps, steps, len(products[0].bs) * cut.tiles.n, ahead)
        cuts = [(i, j) for i in range(0, cut.rows, ROWS) for j in range(0, cut.tiles.n, WIDTH)]
        columns = range(0, acc.shape[1], cut.tiles.n)
        sums = [[acc[i : i + ROWS, c + j : c + j + WIDTH] for c in columns] for i, j in cuts]

        def place(at):
            return m + lax.div(at, across) * ROWS, n + lax.rem(at, across) * WIDTH

        def part(at, carried):
            asked, sums, copies = carried
            given = source.take(asked)
            asked = source.ask(*place(at + 1), at + 1 < parts)
            out = Staging(held, copies)
            finish(out, *place(at), given, *sums[0])
            return asked, [*sums[1:], sums[0]], out.copies

        return lax.fori_loop(0, parts, part, (asked, sums, copies))[2]

    lax.fori_loop(0, count, tile, jnp.int32(0))
    plgpu.wait_smem_to_gmem(0)


def _chain(ring: _Ring, cut: Cut, at: Array, steps: int, columns: int, ahead: Any) -> Array:
    """The sums ``[rows, columns]`` of ``steps`` steps, after ``at`` that went through the ring before. One step is
    under way while the next is waited for, and its slot is released then."""
    warpgroup = lax.axis_index("warpgroup")

    def release(i):
        plgpu.barrier_arrive(ring.free.at[_slot(at + i, cut)])

    def step(i, acc):
        slot = _slot(at + i, cut)
        plgpu.barrier_wait(_full(ring, slot, warpgroup, cut))
        acc = begin(acc, _rows(ring, cut, slot), ring.b.slots.at[slot], ring.a.k_minor, ring.b.k_minor)
        plgpu.wgmma_wait(1)
        pl.when(i > 0)(lambda: release(i - 1))
        if cut.shared:
            # Where the second warpgroup starts.
            lead = min(LAG, steps) - 1
            pl.when((warpgroup == 0) & (at + i == lead))(lambda: plgpu.barrier_arrive(ahead))
        return acc

    acc = lax.fori_loop(0, steps, step, zeros((cut.rows, columns)))
    plgpu.wgmma_wait(0)
    release(steps - 1)
    return read(acc)


def _rows(ring: _Ring, cut: Cut, slot: Array) -> Any:
    """This warpgroup's, of a left operand."""
    size = cut.rows if ring.a.k_minor else cut.rows // DEPTH
    first = lax.axis_index("warpgroup") * size if cut.shared else 0
    return ring.a.slots.at[slot, pl.ds(first, size)]

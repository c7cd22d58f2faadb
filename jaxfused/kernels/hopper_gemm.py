"""What all hopper GEMM kernels share: a persistent program's tiles, the ring that its operands come through, the chain.

Three warpgroups: two multiply, half of a tile's rows each, and the third loads by TMA.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import llvm
from jax.experimental import pallas as pl
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.pallas import mosaic_gpu as plgpu

from parity.contract.tiles import Tiles

from .hopper_epilogue import PART, SUMS, Staging, staging_memory

# Those that multiply, and all.
MULTIPLIERS, WARPGROUPS = 2, 3
# Terms of a sum that a step takes: 16-bit ones in what one swizzle spans.
DEPTH = 64
# Buffers of a warpgroup that results go out through.
BLOCKS = 2
# Registers of a thread that multiplies and of one that loads.
_MULTIPLIER, _LOADER = 232, 40
# Steps that the first multiplying warpgroup is ahead of the second.
_STAGGER = 2
_SWIZZLE = (plgpu.SwizzleTransform(128),)
# wgmma's accumulators, a register an element.
_ACC = plgpu.Layout._WGMMA_ACC_32BIT


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
    """An ``[M, N]`` result in tiles, and, what only changes speed, the stages of the ring and the order of tiles."""

    M: int
    N: int
    K: int
    tiles: Tiles
    stages: int
    group_m: int

    @property
    def count(self) -> int:
        return pl.cdiv(self.M, self.tiles.m) * pl.cdiv(self.N, self.tiles.n)

    @property
    def steps(self) -> int:
        """Those of one product's sum."""
        return pl.cdiv(self.K, DEPTH)


class _Side(NamedTuple):
    """``slots`` ``[stages, ...]`` in shared memory for the left or a right operand; its rows or columns of a tile."""

    slots: Any
    size: int
    k_minor: bool


class _Ring(NamedTuple):
    a: _Side
    bs: list[_Side]
    full: Any
    free: Any


def gemm_body(
    products: Sequence[Product], cut: Cut, kinds: Sequence[Any],
    prepare: Callable[[Array, Array], Any], finish: Callable[..., None],
) -> None:  # fmt: skip
    """All that a program does: the sums of ``products``, one chain, all of the first, then the next.

    ``finish(staging, m, n, prepared, *sums)`` of each ``[PART, PART]`` of a tile, from row m and column n on, one sum
    for each right operand; ``prepared``: what ``prepare(m, n)`` has asked for while the part before it was finished.
    ``kinds``: the results' types.
    """
    first = products[0]

    def run(a_slots, b_slots, full, free, ahead, staging):
        a = _Side(a_slots, cut.tiles.m, not first.a.transposed)
        bs = [_Side(b, cut.tiles.n, operand.transposed) for b, operand in zip(b_slots, first.bs, strict=True)]
        ring = _Ring(a, bs, full, free)
        warpgroup = lax.axis_index("warpgroup")

        @pl.when(warpgroup < MULTIPLIERS)
        def _multiply():
            plgpu.set_max_registers(_MULTIPLIER, action="increase")
            # One finishes a tile while the other multiplies.
            pl.when(warpgroup == 1)(lambda: plgpu.barrier_wait(ahead))
            _tiles(products, cut, ring, ahead, staging, prepare, finish)

        @pl.when(warpgroup == MULTIPLIERS)
        def _load():
            plgpu.set_max_registers(_LOADER, action="decrease")
            _stream(products, cut, ring)

    copies = _copies(first.a, cut.tiles.m, not first.a.transposed)
    copies += sum(_copies(b, cut.tiles.n, b.transposed) for b in first.bs)
    pl.run_scoped(
        run,
        _slots(first.a, cut.tiles.m, not first.a.transposed, cut.stages),
        [_slots(b, cut.tiles.n, b.transposed, cut.stages) for b in first.bs],
        plgpu.Barrier(num_arrivals=copies, num_barriers=cut.stages),
        plgpu.Barrier(num_arrivals=MULTIPLIERS, num_barriers=cut.stages),
        plgpu.Barrier(),
        staging_memory(MULTIPLIERS, BLOCKS, kinds),
        collective_axes="warpgroup",
    )


def _slots(operand: Operand, size: int, k_minor: bool, stages: int) -> Any:
    shape = (size, DEPTH) if k_minor else (size // DEPTH, DEPTH, DEPTH)
    return plgpu.SMEM((stages, *shape), operand.ref.dtype, transforms=_SWIZZLE)


def _mine(cut: Cut) -> Array:
    """How many tiles this program has: p, p + P, ... of P programs."""
    programs = lax.axis_size("program")
    return lax.div(cut.count + programs - 1 - lax.axis_index("program"), jnp.int32(programs))


def _tile(cut: Cut, t: Array) -> tuple[Array, Array]:
    """The first row and column of this program's so-manieth tile; group_m rows of tiles share their columns' operand
    in L2."""
    index = lax.axis_index("program") + t * lax.axis_size("program")
    tiles_m, tiles_n = pl.cdiv(cut.M, cut.tiles.m), pl.cdiv(cut.N, cut.tiles.n)
    width = jnp.int32(cut.group_m * tiles_n)
    group, within = lax.div(index, width), lax.rem(index, width)
    rows = jnp.minimum(tiles_m - group * cut.group_m, cut.group_m)
    return (group * cut.group_m + lax.rem(within, rows)) * cut.tiles.m, lax.div(within, rows) * cut.tiles.n


def _slot(i: Array, cut: Cut) -> Array:
    return lax.rem(i, jnp.int32(cut.stages))


def _stream(products: Sequence[Product], cut: Cut, ring: _Ring) -> None:
    def tile(t, _):
        m, n = _tile(cut, t)
        for p, product in enumerate(products):

            def step(k, _, p=p, product=product):
                i = (t * len(products) + p) * cut.steps + k
                slot = _slot(i, cut)
                pl.when(i >= cut.stages)(lambda: plgpu.barrier_wait(ring.free.at[slot]))
                _fetch(product.a, ring.a, m, k * DEPTH, slot, ring.full)
                for operand, side in zip(product.bs, ring.bs, strict=True):
                    _fetch(operand, side, n, k * DEPTH, slot, ring.full)

            lax.fori_loop(0, cut.steps, step, None)

    lax.fori_loop(0, _mine(cut), tile, None)


def _split(operand: Operand) -> bool:
    return len(operand.ref.shape) == 3


def _copies(operand: Operand, size: int, k_minor: bool) -> int:
    return 1 if k_minor or _split(operand) else size // DEPTH


def _fetch(operand: Operand, side: _Side, first: Array, k: Array, slot: Array, full: Any) -> None:
    """A tile of ``operand``, from row or column ``first`` on. What lies past the edges comes as zeros."""
    ref, barrier, terms = operand.ref, full.at[slot], pl.ds(k, DEPTH)
    if side.k_minor:
        plgpu.copy_gmem_to_smem(ref.at[pl.ds(first, side.size), terms], side.slots.at[slot], barrier)
    elif _split(operand):
        blocks = pl.ds(lax.div(first, jnp.int32(DEPTH)), side.size // DEPTH)
        plgpu.copy_gmem_to_smem(
            ref.at[terms, blocks], plgpu.transpose_ref(side.slots.at[slot], (1, 0, 2)), barrier
        )  # fmt: skip
    else:
        for j in range(side.size // DEPTH):
            plgpu.copy_gmem_to_smem(ref.at[terms, pl.ds(first + j * DEPTH, DEPTH)], side.slots.at[slot, j], barrier)


def _tiles(
    products: Sequence[Product], cut: Cut, ring: _Ring, ahead: Any, staging: dict[Any, Any],
    prepare: Callable[[Array, Array], Any], finish: Callable[..., None],
) -> None:  # fmt: skip
    """What a multiplying warpgroup does."""
    warpgroup = lax.axis_index("warpgroup")
    rows = cut.tiles.m // MULTIPLIERS
    steps = cut.steps * len(products)
    parts = [(i, j) for i in range(0, rows, PART) for j in range(0, cut.tiles.n, PART)]

    def tile(t, _):
        m, n = _tile(cut, t)
        m += warpgroup * rows
        # Asked for before the sums, so that nothing waits for it after.
        prepared = prepare(m, n)
        accs = _chain(ring, cut, t * steps, steps, rows, ahead)
        held = Staging({kind: buffers.at[warpgroup] for kind, buffers in staging.items()})
        for at, (i, j) in enumerate(parts):
            following = None
            if at + 1 < len(parts):
                following = prepare(m + parts[at + 1][0], n + parts[at + 1][1])
            sums = [acc[i : i + PART, j : j + PART] for acc in accs]
            finish(held, m + i, n + j, prepared, *sums)
            prepared = following

    lax.fori_loop(0, _mine(cut), tile, None)
    plgpu.wait_smem_to_gmem(0)


def _chain(ring: _Ring, cut: Cut, at: Array, steps: int, rows: int, ahead: Any) -> list[Array]:
    """The sums ``[rows, tiles.n]`` of ``steps`` steps, after ``at`` that went through the ring before. One step is
    under way while the next is waited for, and its slot is released then."""
    warpgroup = lax.axis_index("warpgroup")
    # Where the second warpgroup starts; no later than the ring lets the first one go alone.
    lead = min(_STAGGER, steps - 1, cut.stages - 1)

    def release(i):
        plgpu.barrier_arrive(ring.free.at[_slot(at + i, cut)])

    def step(i, accs):
        slot = _slot(at + i, cut)
        plgpu.barrier_wait(ring.full.at[slot])
        accs = _wgmma(accs, ring, slot, warpgroup, rows)
        plgpu.wgmma_wait(1)
        pl.when(i > 0)(lambda: release(i - 1))
        pl.when((warpgroup == 0) & (at + i == lead))(lambda: plgpu.barrier_arrive(ahead))
        return accs

    zeros = [_zeros((rows, cut.tiles.n)) for _ in ring.bs]
    accs = lax.fori_loop(0, steps, step, zeros)
    plgpu.wgmma_wait(0)
    release(steps - 1)
    return [_read(acc) for acc in accs]


def _zeros(shape: tuple[int, int]) -> Array:
    @plgpu.inline_mgpu(return_type=plgpu.ShapeDtypeStruct(shape, jnp.float32, layout=_ACC))
    def zeros(_):
        return mgpu.WGMMAAccumulator.zero(*shape)._value

    return zeros()


def _read(acc: Array) -> Array:
    @plgpu.inline_mgpu(arg_types=(_ACC,), return_type=plgpu.ShapeDtypeStruct(acc.shape, jnp.float32, layout=SUMS))
    def read(_, acc):
        # Nothing that uses the sums may move ahead of the wait for them.
        return mgpu.optimization_barrier(acc).to_layout(mgpu.WGMMA_LAYOUT)

    return read(acc)


def _wgmma(accs: list[Array], ring: _Ring, slot: Array, warpgroup: Array, rows: int) -> list[Array]:
    """``acc + a b`` of one slot, begun."""
    shapes = [plgpu.ShapeDtypeStruct(acc.shape, jnp.float32, layout=_ACC) for acc in accs]
    ref = plgpu.RefType(_SWIZZLE)

    @plgpu.inline_mgpu(arg_types=([_ACC] * len(accs), ref, [ref] * len(accs)), return_type=shapes)
    def begin(_, accs, a, bs):
        a = _left(a, ring.a.k_minor)
        done = []
        for acc, b, side in zip(accs, bs, ring.bs, strict=True):
            held = mgpu.WGMMAAccumulator(_value=acc, _original_layout=acc.layout, _sync=False)
            done.append(mgpu.wgmma(held, a, _right(b, side.k_minor), swizzle=128)._value)
        llvm.inline_asm(
            ir.Type.parse("!llvm.void"), [], "wgmma.commit_group.sync.aligned;", "", has_side_effects=True
        )  # fmt: skip
        return done

    size = rows if ring.a.k_minor else rows // DEPTH
    a = ring.a.slots.at[slot, pl.ds(warpgroup * size, size)]
    return begin(accs, a, [side.slots.at[slot] for side in ring.bs])


def _left(a: ir.Value, k_minor: bool) -> ir.Value:
    """``[m / tile, k / tile, tile, tile]`` as wgmma's descriptors are made from, of ``[m, DEPTH]`` or of
    ``[m / DEPTH, DEPTH, DEPTH]``, k in the middle."""
    shape = ir.MemRefType(a.type).shape
    if k_minor:
        return mgpu.memref_reshape(a, (shape[0] // 8, 1, 8, DEPTH))
    return mgpu.memref_transpose(mgpu.memref_reshape(a, (shape[0], DEPTH // 8, 8, DEPTH)), (0, 1, 3, 2))


def _right(b: ir.Value, k_minor: bool) -> ir.Value:
    """``[k / tile, n / tile, tile, tile]``, as ``_left``."""
    shape = ir.MemRefType(b.type).shape
    if k_minor:
        return mgpu.memref_transpose(mgpu.memref_reshape(b, (shape[0] // 8, 1, 8, DEPTH)), (1, 0, 3, 2))
    return mgpu.memref_transpose(mgpu.memref_reshape(b, (shape[0], DEPTH // 8, 8, DEPTH)), (1, 0, 2, 3))

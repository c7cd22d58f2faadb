"""Strategy ``decode`` on Hopper: the whole MLP in one launch, its weights streamed through a ring in shared memory.

A warpgroup brings the weights of both layers by TMA and never waits for the hidden layer: the ring fills with w_down
while the programs hand h over. A second one brings x and, after the hand-over, h. The third multiplies: the weights are
wgmma's operand of 64 rows, whose rows are a block's columns, and x or h, of few rows, is the narrow one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import llvm
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from parity.contract.plan import HOPPER_COLUMNS

from .hopper_epilogue import as_triton, load_bias, spread

# What one warpgroup's wgmma computes at a time: a block's columns.
COLUMNS = HOPPER_COLUMNS
# The warpgroups, in order: they multiply, load weights, load rows.
WARPGROUPS = 3
# Elements of 16 bits in the 128 bytes that one swizzle spans.
_SWIZZLE = plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """What only changes speed. A tile is ``depth`` terms deep; of weights, ``stages`` are held and at most ``ahead`` on
    their way at a time; of x or h, ``row_stages`` are held."""

    depth: int
    stages: int
    ahead: int
    row_stages: int


class _Ring(NamedTuple):
    """``tiles`` ``[stages, ...]`` in shared memory and, of each, whether it is there and whether it is free again."""

    tiles: Any
    full: Any
    free: Any


@dataclass(frozen=True, eq=False)
class _Layer:
    """One of the two products, as a program sees it: ``blocks`` blocks of columns, ``steps`` tiles deep, after
    ``rows_at`` and ``weights_at`` tiles that went through the rings before."""

    rows: jax.Ref
    weights: tuple[jax.Ref, ...]
    biases: tuple[jax.Ref | None, ...]
    blocks: Array
    steps: int
    rows_at: Array | int
    weights_at: Array | int


def decode_fwd_kernel(
    x_ref,
    w_up_ref,
    gate_ref,
    w_down_ref,
    b_up_ref,
    b_gate_ref,
    b_down_ref,
    h_ref,
    y_ref,
    s_ref,
    u_ref,
    *,
    cut: Cut,
    activation: Callable[[Array], Array],
):
    """As the portable decode_fwd_kernel, for 16-bit types and one chain: one wgmma after the other in ascending K.

    x ``[M, K]``; w_up and gate ``[K, H]``, w_down ``[H, N]``; y ``[M, N]``. h, s and u ``[rows, H]``: M rounded up to
    rows that wgmma takes, 8 at a time. Program p of P computes the blocks p, p + P, ... of COLUMNS columns of h and,
    after the hand-over, of y.
    """
    rows = h_ref.shape[0]
    weights = tuple(ref for ref in (w_up_ref, gate_ref) if ref is not None)
    up = _layer(x_ref, weights, (b_up_ref, b_gate_ref), cut, 0, 0)
    tiles = up.blocks * up.steps
    down = _layer(h_ref, (w_down_ref,), (b_down_ref,), cut, tiles, tiles * len(weights))
    arrivals = pl.get_global(plgpu.SemaphoreType.REGULAR)

    def run(w_ring, x_ring, out, tap):
        warpgroup = lax.axis_index("warpgroup")

        @pl.when(warpgroup == 0)
        def _multiply():
            def finish_h(n, acc, acc_gate=None):
                s = acc if acc_gate is None else acc_gate
                h = as_triton(activation, s)
                h = h if acc_gate is None else as_triton(jnp.multiply, h, acc)
                if s_ref is not None:
                    _store(s_ref, tap, n, s)
                if u_ref is not None:
                    _store(u_ref, tap, n, acc)
                _store(h_ref, out, n, h)

            _blocks(up, w_ring, x_ring, finish_h)
            plgpu.semaphore_signal(arrivals, memory_scope="gpu")
            _blocks(down, w_ring, x_ring, partial(_store, y_ref, out))

        @pl.when(warpgroup == 1)
        def _load_weights():
            _stream_weights(up, cut, w_ring)
            _stream_weights(down, cut, w_ring)

        @pl.when(warpgroup == 2)
        def _load_rows():
            _stream_rows(up, cut, x_ring, rows)
            plgpu.semaphore_wait(arrivals, lax.axis_size("program"), decrement=False, memory_scope="gpu")
            _fence()
            _stream_rows(down, cut, x_ring, rows)

    pl.run_scoped(
        run,
        _ring((cut.stages, cut.depth, COLUMNS), w_up_ref.dtype),
        _ring((cut.row_stages, rows, cut.depth), x_ref.dtype),
        plgpu.SMEM((rows, COLUMNS), h_ref.dtype),
        None if s_ref is None else plgpu.SMEM((rows, COLUMNS), s_ref.dtype),
        collective_axes="warpgroup",
    )


def _ring(tiles: tuple[int, ...], dtype: Any) -> _Ring:
    free, full = (plgpu.Barrier(num_barriers=tiles[0]) for _ in range(2))
    return _Ring(plgpu.SMEM(tiles, dtype, transforms=_SWIZZLE), full, free)


def _layer(
    rows: jax.Ref, weights: tuple[jax.Ref, ...], biases: tuple[jax.Ref | None, ...], cut: Cut,
    rows_at: Array | int, weights_at: Array | int,
) -> _Layer:  # fmt: skip
    K, N = weights[0].shape
    programs = lax.axis_size("program")
    blocks = lax.div(N // COLUMNS + programs - 1 - lax.axis_index("program"), jnp.int32(programs))
    return _Layer(rows, weights, biases[: len(weights)], blocks, K // cut.depth, rows_at, weights_at)


def _columns(block: Array) -> pl.Slice:
    """Those of this program's so-manieth block."""
    return pl.ds((lax.axis_index("program") + block * lax.axis_size("program")) * COLUMNS, COLUMNS)


def _stream_weights(layer: _Layer, cut: Cut, ring: _Ring) -> None:
    def step(i, _):
        block, k = lax.div(i, jnp.int32(layer.steps)), lax.rem(i, jnp.int32(layer.steps))
        for g, ref in enumerate(layer.weights):
            at = layer.weights_at + i * len(layer.weights) + g
            _fetch(ring, at, ref.at[pl.ds(k * cut.depth, cut.depth), _columns(block)], cut.ahead)

    lax.fori_loop(0, layer.blocks * layer.steps, step, None)


def _stream_rows(layer: _Layer, cut: Cut, ring: _Ring, rows: int) -> None:
    # Not a constant: what lies past the last row is out of bounds, and so comes as zeros.
    first = lax.axis_index("program") * 0

    def step(i, _):
        k = lax.rem(i, jnp.int32(layer.steps))
        _fetch(ring, layer.rows_at + i, layer.rows.at[pl.ds(first, rows), pl.ds(k * cut.depth, cut.depth)])

    lax.fori_loop(0, layer.blocks * layer.steps, step, None)


def _fetch(ring: _Ring, i: Array, source: Any, ahead: int | None = None) -> None:
    """Brings the ring's i-th tile, with at most ``ahead`` on their way."""
    stages = ring.tiles.shape[0]
    if ahead is not None:
        # Programs that run ahead take the bandwidth of those that all wait for: 26.2 us without, 25.6 us with 3 tiles
        # of 32 KB (one row, 4096-4096-4096, H100).
        pl.when(i >= ahead)(lambda: plgpu.barrier_wait(ring.full.at[_slot(i - ahead, stages)]))
    slot = _slot(i, stages)
    pl.when(i >= stages)(lambda: plgpu.barrier_wait(ring.free.at[slot]))
    plgpu.copy_gmem_to_smem(source, ring.tiles.at[slot], ring.full.at[slot])


def _slot(i: Array, stages: int) -> Array:
    return lax.rem(i, jnp.int32(stages))


def _blocks(layer: _Layer, w_ring: _Ring, x_ring: _Ring, finish: Callable[..., None]) -> None:
    """``finish(columns, *sums)`` of each of this program's blocks, biases added; returns when all is written."""
    shape = (COLUMNS, x_ring.tiles.shape[1])

    def block(j, _):
        n = _columns(j)
        # Asked for before the sums, so that nothing waits for them after.
        loaded = [None if ref is None else load_bias(ref, n.start, axis=0) for ref in layer.biases]
        biases = [None if b is None else spread(b, shape, axis=0) for b in loaded]

        def accumulate(accs):
            _chain(layer, j, w_ring, x_ring, accs)
            return [acc[...] for acc in accs]

        sums = pl.run_scoped(accumulate, [plgpu.ACC(shape, jnp.float32) for _ in layer.weights])
        finish(n, *(s if b is None else s + b for s, b in zip(sums, biases, strict=True)))

    lax.fori_loop(0, layer.blocks, block, None)
    plgpu.wait_smem_to_gmem(0)


def _chain(layer: _Layer, j: Array, w_ring: _Ring, x_ring: _Ring, accs: list[Any]) -> None:
    """The j-th block's sums, in ascending K. A step's slots are released when the next one's products are under way."""
    weights = len(layer.weights)

    def slots(i):
        t = j * layer.steps + i
        first = layer.weights_at + t * weights
        w_slots = [_slot(first + g, w_ring.tiles.shape[0]) for g in range(weights)]
        return _slot(layer.rows_at + t, x_ring.tiles.shape[0]), w_slots

    def release(i):
        x_slot, w_slots = slots(i)
        plgpu.barrier_arrive(x_ring.free.at[x_slot])
        for slot in w_slots:
            plgpu.barrier_arrive(w_ring.free.at[slot])

    def step(i, _):
        x_slot, w_slots = slots(i)
        plgpu.barrier_wait(x_ring.full.at[x_slot])
        for acc, slot in zip(accs, w_slots, strict=True):
            plgpu.barrier_wait(w_ring.full.at[slot])
            # [depth, COLUMNS], [rows, depth]
            plgpu.wgmma(acc, w_ring.tiles.at[slot].T, x_ring.tiles.at[x_slot].T)
        plgpu.wgmma_wait(weights)
        pl.when(i > 0)(lambda: release(i - 1))

    lax.fori_loop(0, layer.steps, step, None)
    plgpu.wgmma_wait(0)
    release(layer.steps - 1)


def _store(ref: jax.Ref, out: Any, n: pl.Slice, value: Array) -> None:
    """Rounds ``value`` ``[COLUMNS, rows]`` into the columns ``n`` of ``ref``, all rows it has, through ``out``."""
    out.T[...] = plgpu.layout_cast(value.astype(out.dtype), plgpu.Layout.WGMMA_TRANSPOSED)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(out.at[pl.ds(0, ref.shape[0])], ref.at[:, n])
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


@plgpu.inline_mgpu()
def _fence(_):
    """h was seen handed over by ordinary loads; TMA is to read it."""
    llvm.inline_asm(ir.Type.parse("!llvm.void"), [], "fence.proxy.async.global;", "", has_side_effects=True)

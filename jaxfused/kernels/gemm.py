"""What all GEMM kernels share: which tile is a program's, accumulator chains over K, parts of a tile."""

from typing import NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from parity.contract.tiles import Tiles


class Operand(NamedTuple):
    """A matrix of a product. ``transposed``: the ref holds a left one as ``[K, M]``, a right one as ``[N, K]``."""

    ref: jax.Ref
    transposed: bool = False


def tile_of(M: int, N: int, tiles: Tiles, group_m: int) -> tuple[Array, Array]:
    """The row and column of this program's tile; group_m rows of tiles share their columns' operand in L2."""
    pid = pl.program_id(0)
    tiles_m = pl.cdiv(M, tiles.m)
    tiles_n = pl.cdiv(N, tiles.n)
    group = pid // (group_m * tiles_n)
    rows = jnp.minimum(tiles_m - group * group_m, group_m)
    return group * group_m + (pid % (group_m * tiles_n)) % rows, (pid % (group_m * tiles_n)) // rows


def chain(
    accs: tuple[Array, ...], a: Operand, bs: tuple[Operand, ...], m: pl.Slice, n: pl.Slice, M: int, N: int,
    start: int, stop: int, tiles: Tiles, tf32: bool,
) -> tuple[Array, ...]:  # fmt: skip
    """``acc + a b`` for each of ``bs`` and ``accs``, over ``[start, stop)`` of K, ascending."""
    steps = _steps(stop - start, tiles)

    def step(i, accs):
        left, rights = _step(a, bs, m, n, M, N, start, stop, steps, i, tiles)
        # The sum and the product are one: Triton folds the addition into the matrix unit's accumulator.
        return tuple(acc + dot(left, right, tf32) for acc, right in zip(accs, rights, strict=True))

    return lax.fori_loop(0, steps, step, accs)


def chains_abreast(
    a: Operand, bs: tuple[Operand, ...], m: pl.Slice, n: pl.Slice, M: int, N: int, K: int,
    length: int, split_k: int, tiles: Tiles, tf32: bool,
) -> tuple[Array, ...]:  # fmt: skip
    """``a b`` for each of ``bs``: K is summed in split_k chains of ``length`` terms, tiles.k of each a step, so that no
    product waits for the one before it; then the chains are added in ascending order."""
    ends = [(min(i * length, K), min((i + 1) * length, K)) for i in range(split_k)]
    steps = _steps(min(length, K), tiles)

    def step(i, parts):
        moved = []
        for accs, (start, stop) in zip(parts, ends, strict=True):
            left, rights = _step(a, bs, m, n, M, N, start, stop, steps, i, tiles)
            moved.append(tuple(acc + dot(left, right, tf32) for acc, right in zip(accs, rights, strict=True)))
        return tuple(moved)

    zeros = ((jnp.zeros((tiles.m, tiles.n), jnp.float32),) * len(bs),) * split_k
    first, *others = lax.fori_loop(0, steps, step, zeros)
    for part in others:
        first = tuple(a + b for a, b in zip(first, part, strict=True))
    return first


def _steps(terms: int, tiles: Tiles) -> int:
    # The compiler unrolls a loop of one step and folds the addition that follows, a bias or the next chain, into the
    # matrix unit as its first accumulator: another order of summation. A second step, all masked, prevents it.
    steps = pl.cdiv(terms, tiles.k)
    return 2 if steps == 1 else steps


def _step(
    a: Operand, bs: tuple[Operand, ...], m: pl.Slice, n: pl.Slice, M: int, N: int,
    start: int, stop: int, steps: int, i: Array, tiles: Tiles,
) -> tuple[Array, list[Array]]:  # fmt: skip
    """The operands of a chain's step ``i`` of ``steps``: ``[BM, BK]`` of a and ``[BK, BN]`` of each of ``bs``."""
    k = pl.ds(start + i * tiles.k, tiles.k)
    a_mask = jnp.broadcast_to((m.start + jnp.arange(tiles.m) < M)[:, None], (tiles.m, tiles.k))
    b_mask = jnp.broadcast_to((n.start + jnp.arange(tiles.n) < N)[None, :], (tiles.k, tiles.n))
    if start + steps * tiles.k != stop:
        k_mask = k.start + jnp.arange(tiles.k) < stop
        a_mask &= k_mask[None, :]
        b_mask &= k_mask[:, None]
    return _load(a, m, k, a_mask), [_load(b, k, n, b_mask) for b in bs]


def dot(a: Array, b: Array, tf32: bool) -> Array:
    """``a b`` in float32; tf32 rounds both to 10 fraction bits first."""
    precision = lax.Precision.HIGHEST
    if tf32:
        a, b, precision = round_tf32(a), round_tf32(b), lax.Precision.HIGH
    dims = (((1,), (0,)), ((), ()))
    return lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)


def round_tf32(x: Array) -> Array:
    """Nearest float32 with 10 fraction bits, ties away from zero (``cvt.rna.tf32``); NaN stays NaN."""
    bits = (lax.bitcast_convert_type(x, jnp.int32) + 0x1000) & -0x2000
    return jnp.where(x == x, lax.bitcast_convert_type(bits, jnp.float32), x)


def parts(tile: Array, columns: int) -> list[Array]:
    """The tile's columns, ``columns`` at a time. An epilogue that works on parts of an accumulator keeps few of its
    values at once: whole, those of a large tile spill."""
    if tile.shape[1] <= columns:
        return [tile]
    left, right = jnp.split(tile, 2, axis=1)
    return parts(left, columns) + parts(right, columns)


def _load(operand: Operand, rows: pl.Slice, columns: pl.Slice, mask: Array) -> Array:
    """The ``[rows, columns]`` of a left operand ``[M, K]`` or a right one ``[K, N]``, as they are in the product."""
    if operand.transposed:
        return plt.load(operand.ref.at[columns, rows], mask=mask.T, other=0.0).T
    return plt.load(operand.ref.at[rows, columns], mask=mask, other=0.0)

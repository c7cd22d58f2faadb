"""Strategy ``tiled``: one GEMM with its whole epilogue in one launch; the MLP is two of them."""

from collections.abc import Callable

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from parity.contract.tiles import Tiles


def linear_fwd_kernel(
    x_ref,
    w_ref,
    gate_ref,
    b_ref,
    b_gate_ref,
    y_ref,
    s_ref,
    u_ref,
    *,
    tiles: Tiles,
    split_k: int,
    activation: Callable[[Array], Array],
    tf32: bool,
    group_m: int,
):
    """``y = act(x w + b)``, or ``y = act(x gate + b_gate) * (x w + b)`` where there is a gate; absent refs are None.

    x ``[M, K]``, w and gate ``[K, N]``, y ``[M, N]``. float32 accumulation, bias and activation; y is rounded once,
    to its own type. s takes the argument of the activation and u, with a gate, the other factor (both float32
    ``[M, N]``).
    """
    M, K = x_ref.shape
    N = w_ref.shape[1]
    pid = pl.program_id(0)
    tiles_m = pl.cdiv(M, tiles.m)
    tiles_n = pl.cdiv(N, tiles.n)
    # group_m rows of tiles share their columns' weights in L2.
    group = pid // (group_m * tiles_n)
    rows = jnp.minimum(tiles_m - group * group_m, group_m)
    tile_m = group * group_m + (pid % (group_m * tiles_n)) % rows
    tile_n = (pid % (group_m * tiles_n)) // rows

    m = pl.ds(tile_m * tiles.m, tiles.m)
    n = pl.ds(tile_n * tiles.n, tiles.n)
    n_mask = n.start + jnp.arange(tiles.n) < N
    m_mask = m.start + jnp.arange(tiles.m) < M

    chain = pl.cdiv(pl.cdiv(K, tiles.k), split_k) * tiles.k
    acc, acc_gate = None, None
    for i in range(split_k):
        start, stop = min(i * chain, K), min((i + 1) * chain, K)
        part, part_gate = _chain(x_ref, w_ref, gate_ref, m, n, m_mask, n_mask, start, stop, tiles, tf32)
        acc = part if acc is None else acc + part
        if gate_ref is not None:
            acc_gate = part_gate if acc_gate is None else acc_gate + part_gate

    if b_ref is not None:
        acc += plt.load(b_ref.at[n], mask=n_mask, other=0.0).astype(jnp.float32)[None, :]
    if b_gate_ref is not None:
        acc_gate += plt.load(b_gate_ref.at[n], mask=n_mask, other=0.0).astype(jnp.float32)[None, :]

    mask = m_mask[:, None] & n_mask[None, :]
    s = acc if gate_ref is None else acc_gate
    y = activation(s) if gate_ref is None else activation(s) * acc
    if s_ref is not None:
        plt.store(s_ref.at[m, n], s, mask=mask)
    if u_ref is not None:
        plt.store(u_ref.at[m, n], acc, mask=mask)
    plt.store(y_ref.at[m, n], y.astype(y_ref.dtype), mask=mask)


def _chain(x_ref, w_ref, gate_ref, m, n, m_mask, n_mask, start: int, stop: int, tiles: Tiles, tf32: bool):
    """One accumulator chain over ``[start, stop)`` in ascending K: ``x w`` and, with a gate, ``x gate``."""
    steps = pl.cdiv(stop - start, tiles.k)
    # The compiler unrolls a loop of one step and folds the addition that follows, a bias or the next chain, into the
    # matrix unit as its first accumulator: another order of summation. A second step, all masked, prevents it.
    steps = 2 if steps == 1 else steps
    even = start + steps * tiles.k == stop

    def step(i, accumulators):
        acc, acc_gate = accumulators
        k = pl.ds(start + i * tiles.k, tiles.k)
        x_mask = jnp.broadcast_to(m_mask[:, None], (tiles.m, tiles.k))
        w_mask = jnp.broadcast_to(n_mask[None, :], (tiles.k, tiles.n))
        if not even:
            k_mask = k.start + jnp.arange(tiles.k) < stop
            x_mask &= k_mask[None, :]
            w_mask &= k_mask[:, None]
        x = plt.load(x_ref.at[m, k], mask=x_mask, other=0.0)  # [BM, BK]
        w = plt.load(w_ref.at[k, n], mask=w_mask, other=0.0)  # [BK, BN]
        if tf32:
            x = _round_tf32(x)
        acc = acc + _dot(x, w, tf32)
        if gate_ref is not None:
            gate = plt.load(gate_ref.at[k, n], mask=w_mask, other=0.0)  # [BK, BN]
            acc_gate = acc_gate + _dot(x, gate, tf32)
        return acc, acc_gate

    zeros = jnp.zeros((tiles.m, tiles.n), jnp.float32)
    return jax.lax.fori_loop(0, steps, step, (zeros, None if gate_ref is None else zeros))


def _dot(x: Array, w: Array, tf32: bool) -> Array:
    """``x w`` in float32. Triton folds the addition that follows into the matrix unit's accumulator."""
    precision = lax.Precision.HIGHEST
    if tf32:
        w, precision = _round_tf32(w), lax.Precision.HIGH
    dims = (((1,), (0,)), ((), ()))
    return lax.dot_general(x, w, dims, precision=precision, preferred_element_type=jnp.float32)


def _round_tf32(x: Array) -> Array:
    """Nearest float32 with 10 fraction bits, ties away from zero (``cvt.rna.tf32``); NaN stays NaN."""
    bits = (lax.bitcast_convert_type(x, jnp.int32) + 0x1000) & -0x2000
    return jnp.where(x == x, lax.bitcast_convert_type(bits, jnp.float32), x)

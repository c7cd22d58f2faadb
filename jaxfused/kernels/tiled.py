"""Strategy ``tiled``: one GEMM with its whole epilogue in one launch; the MLP is two of them."""

from collections.abc import Callable

from jax import Array
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from parity.contract.tiles import Tiles

from .gemm import Operand, chain, parts, tile_of


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
    columns: int,
):
    """``y = act(x w + b)``, or ``y = act(x gate + b_gate) * (x w + b)`` where there is a gate; absent refs are None.

    x ``[M, K]``, w and gate ``[K, N]``, y ``[M, N]``. float32 accumulation, bias and activation; y is rounded once,
    to its own type. s takes the argument of the activation and u, with a gate, the other factor (``[M, N]``, rounded
    to their own type).
    """
    M, K = x_ref.shape
    N = w_ref.shape[1]
    tile_m, tile_n = tile_of(M, N, tiles, group_m)
    m = pl.ds(tile_m * tiles.m, tiles.m)
    n = pl.ds(tile_n * tiles.n, tiles.n)
    weights = tuple(Operand(ref) for ref in (w_ref, gate_ref) if ref is not None)

    length = pl.cdiv(pl.cdiv(K, tiles.k), split_k) * tiles.k
    zeros = (jnp.zeros((tiles.m, tiles.n), jnp.float32),) * len(weights)
    accs = None
    for i in range(split_k):
        start, stop = min(i * length, K), min((i + 1) * length, K)
        part = chain(zeros, Operand(x_ref), weights, m, n, M, N, start, stop, tiles, tf32)
        accs = part if accs is None else tuple(a + b for a, b in zip(accs, part, strict=True))
    assert accs is not None

    m_mask = (m.start + jnp.arange(tiles.m) < M)[:, None]
    for i, accs_part in enumerate(zip(*(parts(acc, columns) for acc in accs), strict=True)):
        width = accs_part[0].shape[1]
        n = pl.ds(tile_n * tiles.n + i * width, width)
        n_mask = n.start + jnp.arange(width) < N
        acc, acc_gate = accs_part if gate_ref is not None else (accs_part[0], None)
        if b_ref is not None:
            acc += plt.load(b_ref.at[n], mask=n_mask, other=0.0).astype(jnp.float32)[None, :]
        if b_gate_ref is not None:
            acc_gate += plt.load(b_gate_ref.at[n], mask=n_mask, other=0.0).astype(jnp.float32)[None, :]
        mask = m_mask & n_mask[None, :]
        s = acc if acc_gate is None else acc_gate
        y = activation(s) if acc_gate is None else activation(s) * acc
        if s_ref is not None:
            plt.store(s_ref.at[m, n], s.astype(s_ref.dtype), mask=mask)
        if u_ref is not None:
            plt.store(u_ref.at[m, n], acc.astype(u_ref.dtype), mask=mask)
        plt.store(y_ref.at[m, n], y.astype(y_ref.dtype), mask=mask)

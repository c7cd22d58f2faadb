"""The backward of strategy ``tiled``: the hidden layer's gradient with its epilogue, and products."""

from collections.abc import Callable

from jax import Array
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from parity.contract.tiles import Tiles
from parity.contract.vendor import Order

from .epilogue import activated
from .gemm import Operand, chain, parts, tile_of


def hidden_bwd_kernel(
    dy_ref,
    w_ref,
    s_ref,
    u_ref,
    h_ref,
    ds_ref,
    du_ref,
    *,
    tiles: Tiles,
    activation: Callable[[Array], Array],
    derivative: Callable[[Array], Array],
    tf32: bool,
    group_m: int,
    columns: int,
    order: Order,
):
    """``ds = (dy w^T) act'(s)``; with u, ``ds = ((dy w^T) u) act'(s)`` and ``du = (dy w^T) act(s)``.

    dy ``[M, K]``, w ``[N, K]``; s, u, h, ds, du ``[M, N]``; absent refs are None. One chain in float32; ds and du are
    rounded once, to their own type. h takes ``act(s)``, times u where there is one, as the forward does.
    """
    M, K = dy_ref.shape
    N = w_ref.shape[0]
    tile_m, tile_n = tile_of(M, N, tiles, group_m)
    m = pl.ds(tile_m * tiles.m, tiles.m)
    n = pl.ds(tile_n * tiles.n, tiles.n)
    zeros = jnp.zeros((tiles.m, tiles.n), jnp.float32)
    (acc,) = chain((zeros,), Operand(dy_ref), (Operand(w_ref, transposed=True),), m, n, M, N, 0, K, tiles, tf32)

    m_mask = (m.start + jnp.arange(tiles.m) < M)[:, None]
    for i, dh in enumerate(parts(acc, columns)):
        width = dh.shape[1]
        n = pl.ds(tile_n * tiles.n + i * width, width)
        mask = m_mask & (n.start + jnp.arange(width) < N)[None, :]
        s = plt.load(s_ref.at[m, n], mask=mask, other=0.0).astype(jnp.float32)
        if u_ref is not None:
            u = plt.load(u_ref.at[m, n], mask=mask, other=0.0).astype(jnp.float32)
            f = activated(s, s_ref.dtype, activation, order)
            ds = (dh * u) * derivative(s)
            plt.store(du_ref.at[m, n], (dh * f).astype(du_ref.dtype), mask=mask)
            if h_ref is not None:
                plt.store(h_ref.at[m, n], (f * u).astype(h_ref.dtype), mask=mask)
        else:
            ds = dh * derivative(s)
            if h_ref is not None:
                f = activated(s, s_ref.dtype, activation, order)
                plt.store(h_ref.at[m, n], f.astype(h_ref.dtype), mask=mask)
        plt.store(ds_ref.at[m, n], ds.astype(ds_ref.dtype), mask=mask)


def product_bwd_kernel(
    a_ref,
    b_ref,
    a2_ref,
    b2_ref,
    y_ref,
    *,
    transposed: tuple[bool, bool],
    tiles: Tiles,
    tf32: bool,
    group_m: int,
):
    """``y = a b``, or ``y = a b + a2 b2``: one chain in float32, all of the first product, then the second.

    a, a2 ``[M, K]``, b, b2 ``[K, N]``, held the other way around where ``transposed`` says so; y ``[M, N]``, rounded
    once, to its own type.
    """
    M, N = y_ref.shape
    K = a_ref.shape[0 if transposed[0] else 1]
    tile_m, tile_n = tile_of(M, N, tiles, group_m)
    m = pl.ds(tile_m * tiles.m, tiles.m)
    n = pl.ds(tile_n * tiles.n, tiles.n)
    accs = (jnp.zeros((tiles.m, tiles.n), jnp.float32),)
    for a, b in ((a_ref, b_ref), (a2_ref, b2_ref)):
        if a is not None:
            accs = chain(
                accs, Operand(a, transposed[0]), (Operand(b, transposed[1]),), m, n, M, N, 0, K, tiles, tf32
            )  # fmt: skip
    m_mask = (m.start + jnp.arange(tiles.m) < M)[:, None]
    n_mask = (n.start + jnp.arange(tiles.n) < N)[None, :]
    plt.store(y_ref.at[m, n], accs[0].astype(y_ref.dtype), mask=m_mask & n_mask)

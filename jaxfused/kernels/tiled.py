"""Strategy ``tiled``: one GEMM with its whole epilogue in one launch; the MLP is two of them."""

from collections.abc import Callable

from jax import Array
from jax import numpy as jnp
from jax.experimental import pallas as pl

from parity.contract.tiles import Tiles, chain_length
from parity.contract.vendor import Order

from .epilogue import finish
from .gemm import Operand, chain, tile_of


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
    order: Order,
):
    """``y = act(x w + b)``, or ``y = act(x gate + b_gate) * (x w + b)`` where there is a gate; absent refs are None.

    x ``[M, K]``, w and gate ``[K, N]``, y ``[M, N]``. float32 accumulation, bias and activation; y is rounded once,
    to its own type. s takes the argument of the activation and u, with a gate, the other factor (``[M, N]``, rounded
    to their own type). K is summed in split_k chains, one after the other. In the vendor's ``order``: rounded and
    spelled as torch's eager MLP is.
    """
    M, K = x_ref.shape
    N = w_ref.shape[1]
    tile_m, tile_n = tile_of(M, N, tiles, group_m)
    m = pl.ds(tile_m * tiles.m, tiles.m)
    n = pl.ds(tile_n * tiles.n, tiles.n)
    weights = tuple(Operand(ref) for ref in (w_ref, gate_ref) if ref is not None)

    length = chain_length(K, split_k)
    zeros = (jnp.zeros((tiles.m, tiles.n), jnp.float32),) * len(weights)
    accs = None
    for i in range(split_k):
        start, stop = min(i * length, K), min((i + 1) * length, K)
        part = chain(zeros, Operand(x_ref), weights, m, n, M, N, start, stop, tiles, tf32)
        accs = part if accs is None else tuple(a + b for a, b in zip(accs, part, strict=True))
    assert accs is not None

    finish(accs, b_ref, b_gate_ref, y_ref, s_ref, u_ref, m, tile_n * tiles.n, M, N, columns, activation, order)

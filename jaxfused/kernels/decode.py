"""Strategy ``decode``: the whole MLP in one launch, for few rows."""

from collections.abc import Callable

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from parity.contract.plan import Gemm
from parity.contract.tiles import chain_length
from parity.contract.vendor import Order

from .epilogue import finish
from .gemm import Operand, chain, chains_abreast
from .handover import hand_over


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
    arrivals_ref,
    *,
    halves: tuple[bool, bool],
    up: Gemm,
    down: Gemm,
    activation: Callable[[Array], Array],
    identity: Callable[[Array], Array],
    tf32: bool,
    columns: int,
    order: Order,
):
    """``h = act(x w_up + b_up)``, or ``h = act(x gate + b_gate) * (x w_up + b_up)`` where there is a gate, then
    ``y = h w_down + b_down``; the arithmetic is linear_fwd_kernel's. Absent refs are None.

    x ``[M, K]``, all M rows in one tile; w_up and gate ``[K, H]``, w_down ``[H, N]``; h ``[M, H]`` and y ``[M, N]``.
    Each program computes every so-manieth block of up.tiles.n columns of h and, after the hand-over, of down.tiles.n
    columns of y. ``halves``: which of the two runs; both, with the hand-over between them, on a GPU, one a launch where
    programs run one after the other.
    """
    weights = tuple(Operand(ref) for ref in (w_up_ref, gate_ref) if ref is not None)
    if halves[0]:
        _blocks(up, x_ref, weights, b_up_ref, b_gate_ref, h_ref, s_ref, u_ref, activation, tf32, columns, order)
    if all(halves):
        hand_over(arrivals_ref)
    if halves[1]:
        _blocks(
            down, h_ref, (Operand(w_down_ref),), b_down_ref, None, y_ref, None, None, identity, tf32, columns, order
        )


def _blocks(
    gemm: Gemm, x_ref: jax.Ref, weights: tuple[Operand, ...], b_ref: jax.Ref | None, b_gate_ref: jax.Ref | None,
    y_ref: jax.Ref, s_ref: jax.Ref | None, u_ref: jax.Ref | None, activation: Callable[[Array], Array],
    tf32: bool, columns: int, order: Order,
) -> None:  # fmt: skip
    """This program's blocks of columns of ``act(x w + b)``, all rows of each."""
    (M, K), N, tiles = x_ref.shape, weights[0].ref.shape[1], gemm.tiles
    m = pl.ds(0, tiles.m)
    program, step = pl.program_id(0), pl.num_programs(0)

    def block(i, _):
        first = (program + i * step) * tiles.n
        n = pl.ds(first, tiles.n)
        if gemm.split_k == 1:
            zeros = (jnp.zeros((tiles.m, tiles.n), jnp.float32),) * len(weights)
            accs = chain(zeros, Operand(x_ref), weights, m, n, M, N, 0, K, tiles, tf32)
        else:
            length = chain_length(K, gemm.split_k)
            accs = chains_abreast(Operand(x_ref), weights, m, n, M, N, K, length, gemm.split_k, tiles, tf32)
        finish(accs, b_ref, b_gate_ref, y_ref, s_ref, u_ref, m, first, M, N, columns, activation, order)

    lax.fori_loop(0, pl.cdiv(pl.cdiv(N, tiles.n) - program, step), block, None)

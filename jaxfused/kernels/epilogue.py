"""What follows a product's chains: bias, activation, gate, taps, and the one rounding of the result."""

from collections.abc import Callable

import jax
from jax import Array
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jax.typing import DTypeLike

from parity.contract.vendor import Order

from ..vendor import rounded
from .gemm import parts


def finish(
    accs: tuple[Array, ...], b_ref: jax.Ref | None, b_gate_ref: jax.Ref | None, y_ref: jax.Ref,
    s_ref: jax.Ref | None, u_ref: jax.Ref | None, m: pl.Slice, first: Array | int, M: int, N: int,
    columns: int, activation: Callable[[Array], Array], order: Order,
) -> None:  # fmt: skip
    """The epilogue of ``accs``, the sum and, of a gated layer, the gate's: the columns from ``first`` on, ``columns``
    at a time. In the vendor's ``order``, what torch's eager MLP hands on from one operation to the next is rounded as
    there, to y's type."""
    m_mask = (m.start + jnp.arange(m.size) < M)[:, None]
    for i, accs_part in enumerate(zip(*(parts(acc, columns) for acc in accs), strict=True)):
        width = accs_part[0].shape[1]
        n = pl.ds(first + i * width, width)
        n_mask = n.start + jnp.arange(width) < N
        acc, acc_gate = accs_part if len(accs_part) == 2 else (accs_part[0], None)
        if b_ref is not None:
            acc += plt.load(b_ref.at[n], mask=n_mask, other=0.0).astype(jnp.float32)[None, :]
        if b_gate_ref is not None:
            acc_gate += plt.load(b_gate_ref.at[n], mask=n_mask, other=0.0).astype(jnp.float32)[None, :]
        mask = m_mask & n_mask[None, :]
        if order is Order.VENDOR:
            acc = rounded(acc, y_ref.dtype)
            acc_gate = acc_gate if acc_gate is None else rounded(acc_gate, y_ref.dtype)
        s = acc if acc_gate is None else acc_gate
        y = activated(s, y_ref.dtype, activation, order)
        if acc_gate is not None:
            y *= acc
        if s_ref is not None:
            plt.store(s_ref.at[m, n], s.astype(s_ref.dtype), mask=mask)
        if u_ref is not None:
            plt.store(u_ref.at[m, n], acc.astype(u_ref.dtype), mask=mask)
        plt.store(y_ref.at[m, n], y.astype(y_ref.dtype), mask=mask)


def activated(s: Array, dtype: DTypeLike, activation: Callable[[Array], Array], order: Order) -> Array:
    """``activation(s)`` in float32; in the vendor's ``order`` rounded to ``dtype``, the operands' type."""
    return rounded(activation(s), dtype) if order is Order.VENDOR else activation(s)

"""The backward of strategy ``tiled`` on Hopper: the hidden layer's gradient with its epilogue, and products."""

from collections.abc import Callable

from jax import Array
from jax import numpy as jnp
from jax.experimental import pallas as pl

from parity.contract.tiles import Tiles

from .hopper_epilogue import Inbox, Nothing, as_triton, inbox_memory
from .hopper_gemm import MULTIPLIERS, Cut, Operand, Product, gemm_body


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
    shared: bool,
    stages: int,
    cluster: int,
    activation: Callable[[Array], Array],
    derivative: Callable[[Array], Array],
    group_m: int,
):
    """As the portable hidden_bwd_kernel, for 16-bit types.

    dy ``[M, K]``, w ``[N, K]``; s, u, h, ds, du ``[M, N]``.
    """
    M, K = dy_ref.shape
    N = w_ref.shape[0]
    cut = Cut(M=M, N=N, K=K, tiles=tiles, shared=shared, stages=stages, cluster=cluster, group_m=group_m)
    saved, made = ([ref for ref in refs if ref is not None] for refs in ((s_ref, u_ref), (ds_ref, du_ref, h_ref)))
    kind = ds_ref.dtype

    def finished(dh, s, u=None):
        """ds, du where there is one, and h."""
        s, u = s.astype(jnp.float32), None if u is None else u.astype(jnp.float32)
        slope, f = derivative(s), activation(s)
        found = [dh * slope, f] if u is None else [dh * u * slope, dh * f, f * u]
        return [value.astype(kind) for value in found[: len(made)]]

    def finish(staging, m, n, given, dh):
        for ref, value in zip(made, as_triton(finished, dh, *given), strict=True):
            staging.put(ref, m, n, value)

    def run(rooms, there):
        inbox = Inbox(saved, rooms, there)
        gemm_body([Product(Operand(dy_ref), (Operand(w_ref, True),))], cut, [kind], inbox, finish)

    pl.run_scoped(run, *inbox_memory(MULTIPLIERS, saved), collective_axes="warpgroup")


def product_bwd_kernel(
    a_ref,
    b_ref,
    a2_ref,
    b2_ref,
    y_ref,
    *,
    transposed: tuple[bool, bool],
    tiles: Tiles,
    shared: bool,
    stages: int,
    cluster: int,
    group_m: int,
):
    """As the portable product_bwd_kernel, for 16-bit types.

    a, a2 ``[M, K]``, b, b2 ``[K, N]`` (as Operand has them), held the other way around where ``transposed`` says so; y
    ``[M, N]``.
    """
    M, N = y_ref.shape
    K = a_ref.shape[0 if transposed[0] else 1]
    products = [
        Product(Operand(a, transposed[0]), (Operand(b, transposed[1]),))
        for a, b in ((a_ref, b_ref), (a2_ref, b2_ref))
        if a is not None
    ]

    def finish(staging, m, n, _, acc):
        staging.put(y_ref, m, n, acc)

    cut = Cut(M=M, N=N, K=K, tiles=tiles, shared=shared, stages=stages, cluster=cluster, group_m=group_m)
    gemm_body(products, cut, [y_ref.dtype], Nothing(), finish)

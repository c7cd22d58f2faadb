"""The backward of strategy ``tiled`` on Hopper: the hidden layer's gradient with its epilogue, and products."""

from collections.abc import Callable

from jax import Array
from jax import numpy as jnp

from parity.contract.tiles import Tiles

from .hopper_epilogue import as_triton, load_part
from .hopper_gemm import Cut, Operand, Product, gemm_body


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
    stages: int,
    activation: Callable[[Array], Array],
    derivative: Callable[[Array], Array],
    group_m: int,
):
    """As the portable hidden_bwd_kernel, for 16-bit types.

    dy ``[M, K]``, w ``[N, K]``; s, u, h, ds, du ``[M, N]``.
    """
    M, K = dy_ref.shape
    N = w_ref.shape[0]

    def prepare(m, n):
        return [None if ref is None else load_part(ref, m, n) for ref in (s_ref, u_ref)]

    def finish(staging, m, n, given, dh):
        s, u = (None if a is None else a.astype(jnp.float32) for a in given)
        slope = as_triton(derivative, s)
        if u is None:
            staging.put(ds_ref, m, n, as_triton(jnp.multiply, dh, slope))
            if h_ref is not None:
                staging.put(h_ref, m, n, as_triton(activation, s))
            return
        staging.put(ds_ref, m, n, as_triton(jnp.multiply, as_triton(jnp.multiply, dh, u), slope))
        f = as_triton(activation, s)
        staging.put(du_ref, m, n, as_triton(jnp.multiply, dh, f))
        if h_ref is not None:
            staging.put(h_ref, m, n, as_triton(jnp.multiply, f, u))

    cut = Cut(M=M, N=N, K=K, tiles=tiles, stages=stages, group_m=group_m)
    gemm_body([Product(Operand(dy_ref), (Operand(w_ref, True),))], cut, [ds_ref.dtype], prepare, finish)


def product_bwd_kernel(
    a_ref,
    b_ref,
    a2_ref,
    b2_ref,
    y_ref,
    *,
    transposed: tuple[bool, bool],
    tiles: Tiles,
    stages: int,
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

    cut = Cut(M=M, N=N, K=K, tiles=tiles, stages=stages, group_m=group_m)
    gemm_body(products, cut, [y_ref.dtype], lambda m, n: None, finish)

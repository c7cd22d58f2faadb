"""Strategy ``tiled`` on Hopper: one GEMM with its whole epilogue in one launch of persistent programs."""

from collections.abc import Callable

from jax import Array

from parity.contract.tiles import Tiles

from .hopper_epilogue import Biases, as_triton, spread
from .hopper_gemm import Cut, Operand, Product, gemm_body


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
    shared: bool,
    stages: int,
    cluster: int,
    activation: Callable[[Array], Array],
    group_m: int,
):
    """As the portable linear_fwd_kernel, for 16-bit types and one chain.

    x ``[M, K]``, w and gate ``[K, N]`` (as Operand has them), y, s and u ``[M, N]``.
    """
    M, K = x_ref.shape
    N = y_ref.shape[1]
    weights = tuple(Operand(ref) for ref in (w_ref, gate_ref) if ref is not None)
    biases = (b_ref, b_gate_ref)[: len(weights)]

    def activated(s, u=None):
        y = activation(s)
        return (y if u is None else y * u).astype(y_ref.dtype)

    def finish(staging, m, n, given, *sums):
        sums = [s if b is None else s + spread(b) for s, b in zip(sums, given, strict=True)]
        acc, s = sums[0], sums[-1]
        y = as_triton(activated, *((s,) if gate_ref is None else (s, acc)))
        if s_ref is not None:
            staging.put(s_ref, m, n, s)
        if u_ref is not None:
            staging.put(u_ref, m, n, acc)
        staging.put(y_ref, m, n, y)

    cut = Cut(M=M, N=N, K=K, tiles=tiles, shared=shared, stages=stages, cluster=cluster, group_m=group_m)
    kinds = {ref.dtype for ref in (y_ref, s_ref, u_ref) if ref is not None}
    gemm_body([Product(Operand(x_ref), weights)], cut, sorted(kinds, key=str), Biases(biases), finish)

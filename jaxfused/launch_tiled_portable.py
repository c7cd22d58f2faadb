"""Strategy ``tiled``, backend ``portable``: the three launches, each a grid of one program a tile."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jax.typing import DTypeLike

from parity.contract.plan import Gemm
from parity.contract.problem import Device
from parity.contract.schedule import COLUMNS, GROUP_M, schedule
from parity.contract.tiles import tiles_for
from parity.contract.vendor import Order

from .activations import DERIVATIVES
from .kernels.tiled import linear_fwd_kernel
from .kernels.tiled_backward import hidden_bwd_kernel, product_bwd_kernel
from .vendor import spelled


def linear(
    gemm: Gemm,
    device: Device,
    x: Array,
    w: Array,
    b: Array | None,
    *,
    gate: Array | None = None,
    b_gate: Array | None = None,
    activation: str,
    precision: str,
    order: Order,
    taps: DTypeLike | None = None,
) -> dict[str, Array]:
    m, n = x.shape[0], w.shape[1]
    out = {"y": jax.ShapeDtypeStruct((m, n), x.dtype)}
    if taps:
        for name in ("s",) if gate is None else ("s", "u"):
            out[name] = jax.ShapeDtypeStruct((m, n), taps)
    if m == 0:
        return _zeros(out)
    return _launch(
        linear_fwd_kernel,
        device,
        gemm,
        1 if gate is None else 2,
        {"x": x, "w": w, "gate": gate, "b": b, "b_gate": b_gate},
        ("y", "s", "u"),
        out,
        (m, n),
        split_k=gemm.split_k,
        activation=spelled(activation, order, x.dtype, device),
        tf32=precision == "tf32",
        columns=COLUMNS,
        order=order,
    )


def hidden_bwd(
    device: Device,
    dy: Array,
    w: Array,
    saved: Mapping[str, Array],
    *,
    activation: str,
    precision: str,
    order: Order,
) -> dict[str, Array]:
    m, k = dy.shape
    s = saved["s"]
    n = s.shape[1]
    gated, hidden = "u" in saved, "h" not in saved
    out = {
        name: jax.ShapeDtypeStruct((m, n), s.dtype) for name in ("d_s", *("d_u",) * gated, *("h",) * hidden)
    }  # fmt: skip
    if m == 0:
        return _zeros(out)
    return _launch(
        hidden_bwd_kernel,
        device,
        _one_chain(device, dy, precision, (m, n, k)),
        1,
        {"dy": dy, "w": w, "s": s, "u": saved.get("u")},
        ("h", "d_s", "d_u"),
        out,
        (m, n),
        activation=spelled(activation, order, dy.dtype, device),
        derivative=DERIVATIVES[activation],
        tf32=precision == "tf32",
        columns=COLUMNS,
        order=order,
    )


def product(
    device: Device,
    precision: str,
    a: Array,
    b: Array,
    a2: Array | None = None,
    b2: Array | None = None,
    *,
    transposed: tuple[bool, bool] = (False, False),
) -> Array:
    """``a b``, or ``a b + a2 b2``, in a's type; ``transposed`` says which are held the other way around."""
    k, m = a.shape if transposed[0] else a.shape[::-1]
    n = b.shape[0 if transposed[1] else 1]
    out = {"y": jax.ShapeDtypeStruct((m, n), b.dtype)}
    if m == 0 or k == 0:
        return _zeros(out)["y"]
    return _launch(
        product_bwd_kernel,
        device,
        _one_chain(device, b, precision, (m, n, k)),
        1,
        {"a": a, "b": b, "a2": a2, "b2": b2},
        ("y",),
        out,
        (m, n),
        transposed=transposed,
        tf32=precision == "tf32",
    )["y"]


def _one_chain(device: Device, like: Array, precision: str, sizes: tuple[int, int, int]) -> Gemm:
    m, n, k = sizes
    return Gemm(tiles=tiles_for(device, str(like.dtype), precision, m, k, n), split_k=1)


def _launch(
    kernel: Callable,
    device: Device,
    gemm: Gemm,
    weights: int,
    operands: Mapping[str, Array | None],
    outputs: tuple[str, ...],
    out: Mapping[str, jax.ShapeDtypeStruct],
    sizes: tuple[int, int],
    **constants: Any,
) -> dict[str, Array]:
    """``outputs``: the kernel's, in its order; those that are not in ``out`` are absent, as operands that are None."""
    m, n = sizes
    present = {name: operand for name, operand in operands.items() if operand is not None}
    names = [*present, *out]
    tiles = gemm.tiles
    warps, stages = schedule(gemm, device, str(next(iter(present.values())).dtype), weights)
    body = partial(kernel, tiles=tiles, group_m=GROUP_M, **constants)

    def launched(*refs):
        given = dict(zip(names, refs, strict=True))
        body(*(given.get(name) for name in (*operands, *outputs)))

    results = pl.pallas_call(
        launched,
        out_shape=list(out.values()),
        grid=(pl.cdiv(m, tiles.m) * pl.cdiv(n, tiles.n),),
        interpret=device.kind == "interpreter",
        compiler_params=plt.CompilerParams(num_warps=warps, num_stages=stages),
        name=getattr(kernel, "__name__", "kernel").removesuffix("_kernel"),
    )(*present.values())
    return dict(zip(out, results, strict=True))


def _zeros(out: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Array]:
    return {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in out.items()}

"""Strategy ``tiled``, backend ``hopper``: the three launches, each of persistent programs that share its tiles."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

from parity.contract.errors import UnsupportedError
from parity.contract.hopper_table import tiling_for
from parity.contract.hopper_tiles import DEPTH, Tiling, Work, cluster_of, shared, slots, unfit
from parity.contract.plan import Gemm
from parity.contract.problem import Device

from .activations import ACTIVATIONS, DERIVATIVES
from .kernels.hopper_gemm import BLOCKS, WARPGROUPS
from .kernels.hopper_tiled import linear_fwd_kernel
from .kernels.hopper_tiled_backward import hidden_bwd_kernel, product_bwd_kernel


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
    taps: DTypeLike | None = None,
    tiling: Tiling | None = None,
) -> dict[str, Array]:
    """As launch_tiled_portable.linear, for packed 16-bit operands and one chain. ``tiling``: else the one of the gemm's
    tiles that suits."""
    (m, k), n = x.shape, w.shape[1]
    work = Work.linear(m, n, k, activation=activation, gated=gate is not None)
    out = {"y": jax.ShapeDtypeStruct((m, n), x.dtype)}
    if taps:
        for name in ("s",) if gate is None else ("s", "u"):
            out[name] = jax.ShapeDtypeStruct((m, n), taps)
    return _launch(
        linear_fwd_kernel,
        device,
        work,
        tiling or tiling_for(device, work, gemm.tiles),
        {"x": x, "w": _split(w), "gate": _split(gate), "b": b, "b_gate": b_gate},
        ("y", "s", "u"),
        out,
        activation=ACTIVATIONS[activation],
    )


def hidden_bwd(
    device: Device,
    dy: Array,
    w: Array,
    saved: Mapping[str, Array],
    *,
    activation: str,
    precision: str,
    tiling: Tiling | None = None,
) -> dict[str, Array]:
    """As launch_tiled_portable.hidden_bwd, for packed 16-bit operands. ``tiling``: else the one that suits."""
    m, k = dy.shape
    s = saved["s"]
    n = s.shape[1]
    gated, hidden = "u" in saved, "h" not in saved
    work = Work(kind="hidden_bwd", rows=m, outer=n, inner=k, gated=gated)
    out = {
        name: jax.ShapeDtypeStruct((m, n), s.dtype) for name in ("d_s", *("d_u",) * gated, *("h",) * hidden)
    }  # fmt: skip
    return _launch(
        hidden_bwd_kernel,
        device,
        work,
        tiling or tiling_for(device, work),
        {"dy": dy, "w": w, "s": s, "u": saved.get("u")},
        ("h", "d_s", "d_u"),
        out,
        activation=ACTIVATIONS[activation],
        derivative=DERIVATIVES[activation],
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
    tiling: Tiling | None = None,
) -> Array:
    """As launch_tiled_portable.product, for packed 16-bit operands. ``tiling``: else the one that suits."""
    k, m = a.shape if transposed[0] else a.shape[::-1]
    n = b.shape[0 if transposed[1] else 1]
    out = {"y": jax.ShapeDtypeStruct((m, n), b.dtype)}
    if k == 0:
        return jnp.zeros((m, n), b.dtype)
    kind = "weight_bwd" if transposed[0] else "input_bwd"
    work = Work(kind=kind, rows=m, outer=n, inner=k, gated=a2 is not None)
    left, right = (_split if transposed[0] else _whole), (_whole if transposed[1] else _split)
    return _launch(
        product_bwd_kernel,
        device,
        work,
        tiling or tiling_for(device, work),
        {"a": left(a), "b": right(b), "a2": left(a2), "b2": right(b2)},
        ("y",),
        out,
        transposed=transposed,
    )["y"]


def _launch(
    kernel: Callable,
    device: Device,
    work: Work,
    tiling: Tiling,
    operands: Mapping[str, Array | None],
    outputs: tuple[str, ...],
    out: Mapping[str, jax.ShapeDtypeStruct],
    **constants: Any,
) -> dict[str, Array]:
    """``outputs``: the kernel's, in its order; those that are not in ``out`` are absent, as operands that are None."""
    if work.rows == 0:
        return {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in out.items()}
    tiles = tiling.tiles
    reason = unfit(tiles, work, device)
    if reason:
        raise UnsupportedError(f"{work} cannot run here: {reason}; use one that is, or leave it out")
    present = {name: operand for name, operand in operands.items() if operand is not None}
    names = [*present, *out]
    cluster = cluster_of(tiles, work)
    # BLOCKS of 128 bytes a row for each type that goes out, and s and u, that come in.
    kinds = {jnp.dtype(shape.dtype) for shape in out.values()}
    staged = BLOCKS * 2 * len(kinds) + sum(present[name].dtype.itemsize for name in ("s", "u") if name in present)
    body = partial(
        kernel,
        tiles=tiles,
        shared=shared(tiles, work.weights),
        stages=slots(tiles, work.weights, staged, device),
        cluster=cluster,
        group_m=max(tiling.group_m // cluster, 1),
        **constants,
    )

    def launched(*refs):
        given = dict(zip(names, refs, strict=True))
        body(*(given.get(name) for name in (*operands, *outputs)))

    results = plgpu.kernel(
        launched,
        out_type=list(out.values()),
        grid=(min(-(work.rows // -tiles.m) * -(work.outer // -tiles.n), device.sm_count) // cluster,),
        grid_names=("program",),
        cluster=(cluster,),
        cluster_names=("cluster",),
        num_threads=WARPGROUPS,
        thread_name="warpgroup",
        kernel_name=getattr(kernel, "__name__", "kernel").removesuffix("_kernel"),
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Lane, unsafe_no_auto_barriers=True
        ),
    )(*present.values())
    return dict(zip(out, results, strict=True))


def _whole(operand: Array | None) -> Array | None:
    return operand


def _split(operand: Array | None) -> Array | None:
    """``[k, n]`` as ``[k, n / DEPTH, DEPTH]``, where that is no other memory and so one copy brings a whole tile."""
    if operand is None or operand.shape[1] % DEPTH:
        return operand
    return operand.reshape(operand.shape[0], -1, DEPTH)

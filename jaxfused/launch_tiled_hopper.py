"""Strategy ``tiled``, backend ``hopper``: the three launches, each of persistent programs that share its tiles."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

from parity.contract.hopper_tiles import DEPTH, GROUP_M, hopper_tiles_for, shared, slots
from parity.contract.plan import Gemm
from parity.contract.problem import Device
from parity.contract.tiles import Tiles

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
) -> dict[str, Array]:
    """As launch_tiled_portable.linear, for packed 16-bit operands and one chain."""
    m, n = x.shape[0], w.shape[1]
    out = {"y": jax.ShapeDtypeStruct((m, n), x.dtype)}
    if taps:
        for name in ("s",) if gate is None else ("s", "u"):
            out[name] = jax.ShapeDtypeStruct((m, n), taps)
    return _launch(
        linear_fwd_kernel,
        device,
        gemm.tiles,
        1 if gate is None else 2,
        {"x": x, "w": _split(w), "gate": _split(gate), "b": b, "b_gate": b_gate},
        ("y", "s", "u"),
        out,
        (m, n),
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
) -> dict[str, Array]:
    """As launch_tiled_portable.hidden_bwd, for packed 16-bit operands."""
    m = dy.shape[0]
    s = saved["s"]
    n = s.shape[1]
    gated, hidden = "u" in saved, "h" not in saved
    out = {
        name: jax.ShapeDtypeStruct((m, n), s.dtype) for name in ("d_s", *("d_u",) * gated, *("h",) * hidden)
    }  # fmt: skip
    return _launch(
        hidden_bwd_kernel,
        device,
        hopper_tiles_for(device, m, n, turns=True),
        1,
        {"dy": dy, "w": w, "s": s, "u": saved.get("u")},
        ("h", "d_s", "d_u"),
        out,
        (m, n),
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
) -> Array:
    """As launch_tiled_portable.product, for packed 16-bit operands."""
    k, m = a.shape if transposed[0] else a.shape[::-1]
    n = b.shape[0 if transposed[1] else 1]
    out = {"y": jax.ShapeDtypeStruct((m, n), b.dtype)}
    if k == 0:
        return jnp.zeros((m, n), b.dtype)
    left, right = (_split if transposed[0] else _whole), (_whole if transposed[1] else _split)
    return _launch(
        product_bwd_kernel,
        device,
        hopper_tiles_for(device, m, n),
        1,
        {"a": left(a), "b": right(b), "a2": left(a2), "b2": right(b2)},
        ("y",),
        out,
        (m, n),
        transposed=transposed,
    )["y"]


def _launch(
    kernel: Callable,
    device: Device,
    tiles: Tiles,
    weights: int,
    operands: Mapping[str, Array | None],
    outputs: tuple[str, ...],
    out: Mapping[str, jax.ShapeDtypeStruct],
    sizes: tuple[int, int],
    **constants: Any,
) -> dict[str, Array]:
    """``outputs``: the kernel's, in its order; those that are not in ``out`` are absent, as operands that are None."""
    m, n = sizes
    if m == 0:
        return {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in out.items()}
    present = {name: operand for name, operand in operands.items() if operand is not None}
    names = [*present, *out]
    # BLOCKS of 128 bytes a row for each type that goes out, and s and u, that come in.
    kinds = {jnp.dtype(shape.dtype) for shape in out.values()}
    staged = BLOCKS * 2 * len(kinds) + sum(present[name].dtype.itemsize for name in ("s", "u") if name in present)
    body = partial(
        kernel,
        tiles=tiles,
        shared=shared(tiles, weights),
        stages=slots(tiles, weights, staged, device),
        group_m=GROUP_M,
        **constants,
    )

    def launched(*refs):
        given = dict(zip(names, refs, strict=True))
        body(*(given.get(name) for name in (*operands, *outputs)))

    results = plgpu.kernel(
        launched,
        out_type=list(out.values()),
        grid=(min(-(m // -tiles.m) * -(n // -tiles.n), device.sm_count),),
        grid_names=("program",),
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

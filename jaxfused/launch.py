"""Plan -> grids, outputs and launches. What only changes speed (warps, pipeline stages, tile order) stands here."""

from functools import lru_cache, partial

import jax
from jax import Array
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from parity.contract.plan import Gemm, Plan
from parity.contract.problem import Device
from parity.contract.tiles import Tiles, stage_bytes

from .activations import ACTIVATIONS
from .kernels.tiled import linear_fwd_kernel

_GROUP_M = 8


def tiled(
    plan: Plan,
    device: Device,
    x: Array,
    w_up: Array,
    w_down: Array,
    *,
    w_gate: Array | None,
    b_up: Array | None,
    b_gate: Array | None,
    b_down: Array | None,
    activation: str,
    precision: str,
    taps: bool = False,
) -> dict[str, Array]:
    """Two launches: ``h = act(x w_up + b_up)`` (times the gate's), ``y = h w_down + b_down``.

    x ``[m, k]``. Returns "h" and "y" and, with ``taps``, float32 "s" (and "u" when gated).
    """
    up, down = plan.gemms()
    hidden = _linear(
        up, device, x, w_up, b_up,
        gate=w_gate, b_gate=b_gate, activation=activation, precision=precision, taps=taps,
    )  # fmt: skip
    h = hidden.pop("y")
    y = _linear(down, device, h, w_down, b_down, activation="identity", precision=precision)["y"]
    return hidden | {"h": h, "y": y}


def _linear(
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
    taps: bool = False,
) -> dict[str, Array]:
    tiles = gemm.tiles
    m = x.shape[0]
    n = w.shape[1]
    out = {"y": jax.ShapeDtypeStruct((m, n), x.dtype)}
    if taps:
        for name in ("s",) if gate is None else ("s", "u"):
            out[name] = jax.ShapeDtypeStruct((m, n), jnp.float32)
    if m == 0:
        return {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in out.items()}
    warps, stages = _schedule(tiles, device, str(x.dtype), 1 if gate is None else 2)
    operands = {"x": x, "w": w, "gate": gate, "b": b, "b_gate": b_gate}
    names = [name for name, operand in operands.items() if operand is not None] + list(out)
    body = partial(
        linear_fwd_kernel,
        tiles=tiles,
        split_k=gemm.split_k,
        activation=ACTIVATIONS[activation],
        tf32=precision == "tf32",
        group_m=_GROUP_M,
    )

    def linear_fwd(*refs):
        given = dict(zip(names, refs, strict=True))
        body(*(given.get(name) for name in (*operands, "y", "s", "u")))

    results = pl.pallas_call(
        linear_fwd,
        out_shape=list(out.values()),
        grid=(pl.cdiv(m, tiles.m) * pl.cdiv(n, tiles.n),),
        interpret=device.kind == "interpreter",
        compiler_params=plt.CompilerParams(num_warps=warps, num_stages=stages),
    )(*(operand for operand in operands.values() if operand is not None))
    return dict(zip(out, results, strict=True))


@lru_cache(maxsize=4096)
def _schedule(tiles: Tiles, device: Device, dtype: str, weights: int) -> tuple[int, int]:
    """Warps for the accumulators' registers, as many pipeline stages as shared memory holds."""
    large = tiles.m * tiles.n >= 128 * 64
    fit = (device.smem_bytes - 8192) // stage_bytes(tiles, dtype, weights)
    # Few rows wait for memory and want it in flight; large tiles ran 5 % slower with a fourth stage.
    return (8, max(1, min(3, fit))) if large else (4, max(1, min(4, fit)))

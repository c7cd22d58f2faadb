"""Strategy ``decode``, backend ``hopper``: a Plan -> one launch that streams the weights through a ring."""

from functools import partial

import jax
from jax import Array
from jax import numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import DTypeLike

from parity.contract.plan import HOPPER_DEPTH, Plan
from parity.contract.problem import Device
from parity.contract.schedule import programs

from .activations import ACTIVATIONS
from .kernels.hopper_decode import COLUMNS, WARPGROUPS, Cut, decode_fwd_kernel

# Rows that a wgmma takes at a time.
_ROWS = 8
# Bytes of weights that a processor holds at most, and of these on their way: enough for the memory's whole rate.
_HELD, _AHEAD = 160 * 1024, 96 * 1024
# Tiles of x or h that it holds.
_ROW_STAGES = 4
# Shared memory for barriers and what the compiler keeps.
_KEPT = 2048


def decode(
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
    taps: DTypeLike | None = None,
) -> dict[str, Array]:
    """As launch_decode_portable.decode, for packed 16-bit operands.

    Does not hang under the condition that launch_decode_portable.decode states. The semaphore that counts arrivals is
    a global of the launch's own, zeroed before each launch (a memset of 1.0 us on an H100).
    """
    m, hidden, n = x.shape[0], w_up.shape[1], w_down.shape[1]
    out = {"h": jax.ShapeDtypeStruct((m, hidden), x.dtype), "y": jax.ShapeDtypeStruct((m, n), x.dtype)}
    if taps:
        out |= {name: jax.ShapeDtypeStruct((m, hidden), taps) for name in (("s",) if w_gate is None else ("s", "u"))}
    if m == 0:
        return {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in out.items()}
    rows = -(m // -_ROWS) * _ROWS
    if _ROWS < m < rows:
        # TMA gives zeros for rows that are not there, but Mosaic cuts more rows than a tile's into whole tiles only.
        x = jnp.pad(x, ((0, rows - m), (0, 0)))
    operands = {
        "x": x,
        "w_up": w_up,
        "gate": w_gate,
        "w_down": w_down,
        "b_up": b_up,
        "b_gate": b_gate,
        "b_down": b_down,
    }
    given = {name: operand for name, operand in operands.items() if operand is not None}
    made = {name: jax.ShapeDtypeStruct((m if name == "y" else rows, *s.shape[1:]), s.dtype) for name, s in out.items()}
    names = [*given, *made]
    body = partial(decode_fwd_kernel, cut=_cut(device, rows, made), activation=ACTIVATIONS[activation])

    def launched(*refs):
        held = dict(zip(names, refs, strict=True))
        body(*(held.get(name) for name in (*operands, "h", "y", "s", "u")))

    results = plgpu.kernel(
        launched,
        out_type=list(made.values()),
        grid=(programs(max(hidden, n) // COLUMNS, device),),
        grid_names=("program",),
        num_threads=WARPGROUPS,
        thread_name="warpgroup",
        kernel_name="decode_fwd",
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane),
    )(*given.values())
    return {name: result[:m] for name, result in zip(made, results, strict=True)}


def _cut(device: Device, rows: int, made: dict[str, jax.ShapeDtypeStruct]) -> Cut:
    """The deeper of two tiles where shared memory holds more of it than are on their way: up to 24 rows."""
    results = sum(rows * COLUMNS * made[name].dtype.itemsize for name in ("h", "s") if name in made)
    for depth in (HOPPER_DEPTH, HOPPER_DEPTH // 2):
        tile = depth * COLUMNS * 2
        room = device.smem_bytes - _KEPT - results - _ROW_STAGES * rows * depth * 2
        stages, ahead = min(room, _HELD) // tile, _AHEAD // tile
        if stages >= ahead + 2:
            break
    return Cut(depth=depth, stages=stages, ahead=ahead, row_stages=_ROW_STAGES)

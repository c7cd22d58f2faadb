"""Strategy ``decode``: a Plan -> one launch of programs that are all on the GPU at once."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
from jax import Array
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jax.typing import DTypeLike

from parity.contract.plan import Plan
from parity.contract.problem import Device
from parity.contract.schedule import COLUMNS, decode_stages, programs

from .kernels.decode import decode_fwd_kernel
from .vendor import spelled

# The halves of each launch. An interpreter runs programs one after the other: there none could wait for another.
_TOGETHER = ((True, True),)
_ONE_BY_ONE = ((True, False), (False, True))
# In the kernel's order.
_OPERANDS = ("x", "w_up", "gate", "w_down", "b_up", "b_gate", "b_down", "h", "y", "s", "u", "arrivals")


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
    """``h = act(x w_up + b_up)`` (times the gate's) and ``y = h w_down + b_down``; arguments and result are those of
    ``launch.tiled``.

    Does not hang while XLA runs a device's kernels one after the other: there are at most as many programs as
    processors, each small enough for one, and whatever holds a processor at the start ends by itself. Two such launches
    side by side could each wait for processors the other holds: do not run decode plans in two processes that share a
    GPU's processors (MPS), nor under XLA flags that run kernels of one module at the same time. The word to count
    arrivals in is an output of the call's own, zeroed by XLA before each launch.
    """
    up, down = plan.gemms()
    m, hidden, n = x.shape[0], w_up.shape[1], w_down.shape[1]
    gated = w_gate is not None
    out = {"h": jax.ShapeDtypeStruct((m, hidden), x.dtype), "y": jax.ShapeDtypeStruct((m, n), x.dtype)}
    if taps:
        out |= {name: jax.ShapeDtypeStruct((m, hidden), taps) for name in (("s", "u") if gated else ("s",))}
    if m == 0:
        return {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in out.items()}
    together = device.kind == "gpu"
    operands = {"x": x, "w_up": w_up, "gate": w_gate, "w_down": w_down}
    operands |= {"b_up": b_up, "b_gate": b_gate, "b_down": b_down}
    given = {name: operand for name, operand in operands.items() if operand is not None}
    blocks = max(pl.cdiv(hidden, up.tiles.n), pl.cdiv(n, down.tiles.n))
    stages = decode_stages((up, down), device, str(x.dtype), 1 + gated)
    # What a launch leaves as it is, the other half's, it hands on.
    kept: dict[str, Array] = {"arrivals": jnp.zeros(1, jnp.int32)} if together else {}
    for halves in _TOGETHER if together else _ONE_BY_ONE:
        kept = _launch(
            partial(
                decode_fwd_kernel,
                halves=halves,
                up=up,
                down=down,
                activation=spelled(activation, plan.order, x.dtype, device),
                identity=spelled("identity", plan.order, x.dtype, device),
                tf32=precision == "tf32",
                columns=COLUMNS,
                order=plan.order,
            ),
            given,
            kept,
            out | ({"arrivals": jax.ShapeDtypeStruct((1,), jnp.int32)} if together else {}),
            programs(blocks, device),
            stages,
            interpret=not together,
        )
    return {name: kept[name] for name in out}


def _launch(
    body: Callable,
    given: Mapping[str, Array],
    kept: Mapping[str, Array],
    out: Mapping[str, jax.ShapeDtypeStruct],
    grid: int,
    stages: int,
    *,
    interpret: bool,
) -> dict[str, Array]:
    """``body`` over ``given``; of the outputs, those in ``kept`` go in with what they hold."""
    names = [*given, *kept, *out]

    def launched(*refs):
        # What was kept is there twice: as an input, and then as the output that it is.
        held = dict(zip(names, refs, strict=True))
        body(*(held.get(name) for name in _OPERANDS))

    results = pl.pallas_call(
        launched,
        out_shape=list(out.values()),
        grid=(grid,),
        input_output_aliases={len(given) + i: list(out).index(name) for i, name in enumerate(kept)},
        interpret=interpret,
        compiler_params=plt.CompilerParams(num_warps=4, num_stages=stages),
        name="decode_fwd",
    )(*given.values(), *kept.values())
    return dict(zip(out, results, strict=True))

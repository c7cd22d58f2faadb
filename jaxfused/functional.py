"""fused_mlp: one call, checked before anything is launched."""

from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from parity.contract import explanation
from parity.contract.errors import UnsupportedError
from parity.contract.explanation import Explanation
from parity.contract.plan import LIBRARY, Plan, Strategy, choose
from parity.contract.problem import Device, Problem
from parity.contract.request import NAMES, Operand, problem_of

from . import launch, reference
from .device import device_of

_GRADIENTS = "the fused kernels have no backward yet; leave the plan out, and gradients go through the library plan"


def fused_mlp(
    x: Float[Array, "*b k"],
    w_up: Float[Array, "k h"],
    w_down: Float[Array, "h n"],
    *,
    w_gate: Float[Array, "k h"] | None = None,
    b_up: Float[Array, " h"] | None = None,
    b_gate: Float[Array, " h"] | None = None,
    b_down: Float[Array, " n"] | None = None,
    activation: str = "gelu_tanh",
    precision: str = "ieee",
    plan: Plan | None = None,
) -> Float[Array, "*b n"]:
    """``act(x w_up + b_up) w_down + b_down``; with ``w_gate``,
    ``(act(x w_gate + b_gate) * (x w_up + b_up)) w_down + b_down``.

    Weights are Flax' ``[in, out]``. float32, float16 or bfloat16, one for all operands; float32 accumulation; the
    hidden layer and ``y`` are each rounded once to the operands' type. ``precision`` is "ieee" or, for float32,
    "tf32". ``plan`` forces how it runs; left out, ``explain`` tells what is chosen and why. Under ``jax.grad`` the
    library plan runs, forward and backward.

    Raises ValueError for operands that do not fit, UnsupportedError for a plan that cannot run here.
    """
    return _evaluate(x, w_up, w_down, w_gate, b_up, b_gate, b_down, activation, precision, plan, taps=False)["y"]


def stages(
    x: Float[Array, "*b k"],
    w_up: Float[Array, "k h"],
    w_down: Float[Array, "h n"],
    *,
    w_gate: Float[Array, "k h"] | None = None,
    b_up: Float[Array, " h"] | None = None,
    b_gate: Float[Array, " h"] | None = None,
    b_down: Float[Array, " n"] | None = None,
    activation: str = "gelu_tanh",
    precision: str = "ieee",
    plan: Plan | None = None,
) -> dict[str, Array]:
    """What passes through the kernels of one ``fused_mlp`` call, tapped where it is computed.

    "s" (the activation's argument) and, when gated, "u" (the other factor) in float32, "h" and "y" as they are.
    A ``library`` plan's "s" and "u" are in the operands' type.
    """
    return _evaluate(x, w_up, w_down, w_gate, b_up, b_gate, b_down, activation, precision, plan, taps=True)


def explain(
    x: Float[Array, "*b k"],
    w_up: Float[Array, "k h"],
    w_down: Float[Array, "h n"],
    *,
    w_gate: Float[Array, "k h"] | None = None,
    b_up: Float[Array, " h"] | None = None,
    b_gate: Float[Array, " h"] | None = None,
    b_down: Float[Array, " n"] | None = None,
    activation: str = "gelu_tanh",
    precision: str = "ieee",
    plan: Plan | None = None,
) -> Explanation:
    """The plan ``fused_mlp`` would run for the same arguments, why, its launches, bytes and floor. Launches nothing.
    Raises what ``fused_mlp`` raises."""
    operands, problem = _operands(x, w_up, w_down, w_gate, b_up, b_gate, b_down, activation, precision)
    device = device_of(operands[0])
    choice = choose(problem, device, plan)
    differentiated = "" if choice.plan == LIBRARY else "; under differentiation the library plan runs in its place"
    return explanation.explain(problem, device, plan, why=choice.why + differentiated)


def _evaluate(x, w_up, w_down, w_gate, b_up, b_gate, b_down, activation, precision, plan, *, taps) -> dict[str, Array]:
    operands, problem = _operands(x, w_up, w_down, w_gate, b_up, b_gate, b_down, activation, precision)
    x, w_up, w_down, w_gate, b_up, b_gate, b_down = operands
    device = device_of(x)
    chosen = choose(problem, device, plan).plan
    rows = x.reshape(problem.m, problem.in_features)
    named = {"w_gate": w_gate, "b_up": b_up, "b_gate": b_gate, "b_down": b_down}
    arrays = (rows, w_up, w_down)
    if chosen == LIBRARY:
        # Without custom_vjp, so that every transform of jax is served.
        out = _forward(chosen, device, activation, precision, taps, arrays, named)
    else:
        out: dict[str, Array] = _run(chosen, device, activation, precision, taps, plan is not None, arrays, named)
    return {name: value.reshape(*x.shape[:-1], value.shape[-1]) for name, value in out.items()}


def _operands(*given: Any) -> tuple[tuple[Any, ...], Problem]:
    """The operands as jax arrays, numpy's included, and their Problem; the last two are activation and precision."""
    *operands, activation, precision = given
    for name, a in zip(NAMES, operands, strict=True):
        optional = a is None and name not in ("x", "w_up", "w_down")
        if not optional and not isinstance(a, jax.Array | np.ndarray):
            raise ValueError(f"{name} is a {type(a).__name__}, must be an array of jax or numpy")
    # As they are given: jax would turn numpy's float64 into float32 in silence. Devices are jax' own affair: it refuses
    # operands on different ones, and a traced one has none yet.
    described = (None if a is None else Operand(a.shape, str(a.dtype), "") for a in operands)
    problem = problem_of(*described, activation=activation, precision=precision, layout="in_out")
    return tuple(None if a is None else jnp.asarray(a) for a in operands), problem


@partial(jax.custom_vjp, nondiff_argnums=tuple(range(6)))
def _run(
    plan: Plan, device: Device, activation: str, precision: str, taps: bool, forced: bool, arrays, named
) -> dict[str, Array]:
    return _forward(plan, device, activation, precision, taps, arrays, named)


def _run_fwd(plan, device, activation, precision, taps, forced, arrays, named):
    if forced and plan.strategy is not Strategy.LIBRARY:
        raise UnsupportedError(f"plan {plan.strategy}/{plan.backend} cannot run here: {_GRADIENTS}")
    return jax.vjp(partial(_forward, LIBRARY, device, activation, precision, taps), arrays, named)


def _run_bwd(plan, device, activation, precision, taps, forced, vjp, cotangents):
    return vjp(cotangents)


_run.defvjp(_run_fwd, _run_bwd)


@partial(jax.jit, static_argnums=tuple(range(5)))
def _forward(
    plan: Plan, device: Device, activation: str, precision: str, taps: bool, arrays, named
) -> dict[str, Array]:
    if plan.strategy is Strategy.LIBRARY:
        out = reference.stages(*arrays, **named, activation=activation, precision=precision)
    else:
        out = launch.tiled(
            plan,
            device,
            *arrays,
            **named,
            activation=activation,
            precision=precision,
            taps=jnp.float32 if taps else None,
        )
    return out if taps else {"y": out["y"]}

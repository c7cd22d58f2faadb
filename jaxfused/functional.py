"""fused_mlp: one call, checked before anything is launched."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from parity.contract import explanation
from parity.contract.choice import choose
from parity.contract.explanation import Explanation
from parity.contract.plan import LIBRARY, Plan
from parity.contract.problem import Device, Problem
from parity.contract.request import NAMES, Operand, problem_of
from parity.contract.saved import check_save

from . import launch, reference, training
from .device import device_of


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
    save: str = "preact",
) -> Float[Array, "*b n"]:
    """``act(x w_up + b_up) w_down + b_down``; with ``w_gate``,
    ``(act(x w_gate + b_gate) * (x w_up + b_up)) w_down + b_down``.

    Weights are Flax' ``[in, out]``. float32, float16 or bfloat16, one for all operands; float32 accumulation; the
    hidden layer and ``y`` are each rounded once to the operands' type. ``precision`` is "ieee" or, for float32,
    "tf32". ``plan`` forces how it runs; left out, ``explain`` tells what is chosen and why. A plan of the
    vendor's order gives the bits of torch's eager MLP (contract/vendor.py), but not those of its gradients. These are
    the bits of the torch build on record of this GPU, which ``explain`` names, whatever torch is installed, if any.

    Differentiable once in reverse mode; a gradient has its operand's type. ``save`` is what a fused plan keeps for the
    backward: "preact" (the pre-activations), "hidden" (those and the hidden layer), or "recompute" (nothing: the first
    GEMM is run again); parity/contract/saved.py.

    Raises ValueError for operands that do not fit, UnsupportedError for a plan that cannot run here.
    """
    return _evaluate(x, w_up, w_down, w_gate, b_up, b_gate, b_down, activation, precision, plan, save)["y"]


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
    return _evaluate(x, w_up, w_down, w_gate, b_up, b_gate, b_down, activation, precision, plan, None)


def gradients(
    dy: Float[Array, "*b n"],
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
    save: str = "preact",
) -> dict[str, Array]:
    """What passes through the backward's kernels for the upstream ``dy``, tapped where it is computed.

    "d_<operand>" for each operand given; of a fused plan also "s" (and "u") and "h" as the backward used them, "d_s"
    and, when gated, "d_u": the gradients of the pre-activations. All in the operands' type.
    """
    check_save(save)
    operands, problem = _operands(x, w_up, w_down, w_gate, b_up, b_gate, b_down, activation, precision)
    named = {name: a for name, a in zip(NAMES, operands, strict=True) if a is not None}
    options: dict[str, Any] = {"activation": activation, "precision": precision}
    device = device_of(operands[0])
    chosen = choose(problem, device, plan, training=True).plan
    if chosen == LIBRARY:
        return jax.jit(partial(reference.gradients, **options))(dy, **named)
    lead = x.shape[:-1]
    rows = {"x": operands[0].reshape(problem.m, problem.in_features)}
    dy = dy.reshape(problem.m, problem.out_features)
    found = _backward(chosen, device, activation, precision, save, dy, named | rows)
    over_rows = ("s", "u", "h", "d_s", "d_u", "d_x")
    return {n: a.reshape(*lead, a.shape[-1]) if n in over_rows else a for n, a in found.items()}


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
    save: str = "preact",
) -> Explanation:
    """The plan ``fused_mlp`` would run for the same arguments, why, its launches, bytes and floor. Launches nothing.
    Raises what ``fused_mlp`` raises."""
    check_save(save)
    operands, problem = _operands(x, w_up, w_down, w_gate, b_up, b_gate, b_down, activation, precision)
    device = device_of(operands[0])
    choice, trained = choose(problem, device, plan), choose(problem, device, plan, training=True)
    # Whether it will be differentiated is not known before it is.
    other = "" if trained.plan == choice.plan else f"; under differentiation {trained.plan} runs: {trained.why}"
    return explanation.explain(problem, device, plan, why=choice.why + other)


def _evaluate(x, w_up, w_down, w_gate, b_up, b_gate, b_down, activation, precision, plan, save) -> dict[str, Array]:
    """The stages; y alone where ``save`` says what a backward would need, all of them where it is None."""
    operands, problem = _operands(x, w_up, w_down, w_gate, b_up, b_gate, b_down, activation, precision)
    if save is not None:
        check_save(save)
    x, w_up, w_down, w_gate, b_up, b_gate, b_down = operands
    device = device_of(x)
    chosen, trained = (choose(problem, device, plan, training=trains).plan for trains in (False, True))
    rows = x.reshape(problem.m, problem.in_features)
    named = {"w_gate": w_gate, "b_up": b_up, "b_gate": b_gate, "b_down": b_down}
    options: dict[str, Any] = {"activation": activation, "precision": precision}
    if save is None:
        out = _stages(chosen, device, activation, precision, (rows, w_up, w_down), named)
    elif chosen == trained == LIBRARY:
        # Without custom_vjp, so that every transform of jax is served.
        out = {"y": _library(activation, precision, (rows, w_up, w_down), named)}
    else:
        if plan is None:
            # vmap may fold a batch into the rows, which other tiles suit.
            chosen, trained = (replace(p, up=None, down=None) for p in (chosen, trained))
        else:
            # Tiles left open stay open, for the same reason; chains, which are bits, do not. A plan without a backward
            # is trained by another one.
            settled = replace(plan, split_k=chosen.split_k)
            trained = settled if trained.strategy is plan.strategy else replace(trained, up=None, down=None)
            chosen = settled
        out = {"y": training.mlp(problem, chosen, trained, device, rows, w_up, w_down, **named, **options, save=save)}
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


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _stages(plan: Plan, device: Device, activation: str, precision: str, arrays, named) -> dict[str, Array]:
    if plan == LIBRARY:
        return reference.stages(*arrays, **named, activation=activation, precision=precision)
    return launch.forward(plan, device, *arrays, **named, activation=activation, precision=precision, taps=jnp.float32)


@partial(jax.jit, static_argnums=(0, 1))
def _library(activation: str, precision: str, arrays, named) -> Array:
    return reference.mlp(*arrays, **named, activation=activation, precision=precision)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _backward(plan: Plan, device: Device, activation: str, precision: str, save: str, dy, given) -> dict[str, Array]:
    options: dict[str, Any] = {"activation": activation, "precision": precision}
    x, w_up, w_down, w_gate = (given.get(name) for name in ("x", "w_up", "w_down", "w_gate"))
    biases = {name: given.get(name) for name in ("b_up", "b_gate")}
    taps = launch.tiled_hidden(plan, device, x, w_up, w_gate=w_gate, **biases, **options, taps=x.dtype)
    saved = {name: tap for name, tap in taps.items() if name != "h" or save != "preact"}
    return dict(saved) | launch.tiled_backward(
        plan, device, dy, x, w_up, w_down, w_gate=w_gate, saved=saved, needs=tuple(given), **options, taps=True
    )

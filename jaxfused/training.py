"""The fused plan with its backward: custom_vjp outermost, and rules that fold a batch of inputs into the rows."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.custom_batching import custom_vmap

from parity.contract.choice import choose
from parity.contract.errors import UnsupportedError
from parity.contract.plan import LIBRARY, Plan
from parity.contract.problem import Device, Problem
from parity.contract.saved import saved_names

from . import launch, reference

_TWICE = (
    "the fused backward has no derivative of its own (a second derivative, jax.hessian); "
    'use plan=Plan(strategy="library"), which is differentiable as often as you like'
)


def mlp(
    problem: Problem,
    plan: Plan,
    trained: Plan,
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
    save: str,
) -> Array:
    """``y`` for x ``[m, k]`` by ``plan``; where it is differentiated, once, forward and backward by ``trained``. Both
    may leave their tiles open. ``save``: what is kept for the backward.

    Kept values are named "fused_mlp_s", "fused_mlp_u" and "fused_mlp_h" for the policies of jax.checkpoint. Gradients
    of operands that are not differentiated are not computed.
    """
    given = {"w_up": w_up, "w_down": w_down, "w_gate": w_gate, "b_up": b_up, "b_gate": b_gate, "b_down": b_down}
    shared = {name: value for name, value in given.items() if value is not None}
    options: tuple[tuple[str, Any], ...] = (("activation", activation), ("precision", precision))
    return _mlp(_Setting(problem, device, plan, trained, options, save), x, shared)


@dataclass(frozen=True, slots=True)
class _Setting:
    """All that is no array."""

    problem: Problem
    device: Device
    plan: Plan
    trained: Plan
    options: tuple[tuple[str, Any], ...]
    save: str

    def complete(self, plan: Plan, x: Array) -> Plan:
        """``plan`` with tiles for as many rows as x has: vmap makes them more."""
        return choose(replace(self.problem, m=x.shape[0]), self.device, plan).plan


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mlp(setting: _Setting, x: Array, shared: dict[str, Array]) -> Array:
    if setting.plan == LIBRARY:
        return reference.mlp(x, **shared, **dict(setting.options))
    return _forward(setting, setting.plan, ())(x, shared)["y"]


def _mlp_fwd(setting: _Setting, x: Any, shared: dict[str, Any]) -> tuple[Array, Any]:
    # The names are kept as keys without a value: residuals are arrays.
    needs = {name: () for name, leaf in {"x": x, **shared}.items() if leaf.perturbed}
    x, shared = x.value, {name: leaf.value for name, leaf in shared.items()}
    if setting.trained == LIBRARY:
        y, pull = jax.vjp(lambda x, shared: reference.mlp(x, **shared, **dict(setting.options)), x, shared)
        return y, pull
    names = saved_names(setting.save, setting.problem.gated)
    found = _forward(setting, setting.trained, names)(x, shared)
    kept = {name: checkpoint_name(found[name], f"fused_mlp_{name}") for name in names}
    return found["y"], (needs, x, shared, kept)


def _mlp_bwd(setting: _Setting, residuals: Any, dy: Any) -> tuple[Any, Any]:
    if type(dy) is jax.custom_derivatives.SymbolicZero:
        dy = jnp.zeros(dy.shape, str(dy.dtype))
    if setting.trained == LIBRARY:
        return residuals(dy)
    needs, x, shared, kept = residuals
    found = _backward(setting, tuple(needs))(dy, x, kept, shared)
    return found.get("d_x"), {name: found.get(f"d_{name}") for name in shared}


_mlp.defvjp(_mlp_fwd, _mlp_bwd, symbolic_zeros=True)


@lru_cache(maxsize=1024)
def _forward(setting: _Setting, plan: Plan, names: tuple[str, ...]) -> Callable[..., dict[str, Array]]:
    """(x, shared) -> y and what is kept, one launch after the other."""

    def run(x: Array, shared: dict[str, Array]) -> dict[str, Array]:
        taps = x.dtype if names else None
        found = launch.forward(
            setting.complete(plan, x), setting.device, x, **_operands(shared), **dict(setting.options), taps=taps
        )
        return {name: found[name] for name in ("y", *names)}

    return _once(_folding(run, rows=1, summed=lambda name: False))


@lru_cache(maxsize=1024)
def _backward(setting: _Setting, needs: tuple[str, ...]) -> Callable[..., dict[str, Array]]:
    """(dy, x, kept, shared) -> the gradients of ``needs``."""

    def run(dy: Array, x: Array, kept: dict[str, Array], shared: dict[str, Array]) -> dict[str, Array]:
        options: dict[str, Any] = dict(setting.options)
        operands, plan = _operands(shared), setting.complete(setting.trained, x)
        if not kept:
            hidden = {name: value for name, value in operands.items() if name not in ("w_down", "b_down")}
            kept = launch.tiled_hidden(plan, setting.device, x, **hidden, **options, taps=x.dtype)
        weights = {name: operands[name] for name in ("w_up", "w_down", "w_gate")}
        found = launch.tiled_backward(plan, setting.device, dy, x, **weights, saved=dict(kept), needs=needs, **options)
        return {f"d_{name}": found[f"d_{name}"] for name in needs}

    return _once(_folding(run, rows=3, summed=lambda name: name != "d_x"))


def _once(kernels: Callable[..., dict[str, Array]]) -> Callable[..., dict[str, Array]]:
    """``kernels`` under jit; whoever differentiates them, and not ``_mlp``, takes a second derivative."""

    @jax.custom_vjp
    def run(*arguments: Any) -> dict[str, Array]:
        return kernels(*arguments)

    def refuse(*_: Any) -> Any:
        raise UnsupportedError(_TWICE)

    run.defvjp(refuse, refuse)
    return jax.jit(run)


def _folding(run: Callable[..., dict[str, Array]], *, rows: int, summed: Callable[[str], bool]) -> Callable:
    """``run`` with a rule for vmap. Its first ``rows`` arguments are rows, the last one, shared, is all the rest.

    Where only rows are batched, a batch of them is so many more rows: one launch serves it. What is ``summed`` over
    rows, a weight's gradient, is not: that, and a batch of weights, runs one after the other.
    """
    mapped = custom_vmap(run)

    @mapped.def_vmap
    def rule(size: int, batched: list[Any], *arguments: Any) -> tuple[Any, Any]:
        spread = [
            jax.tree.map(lambda a, b: a if b else jnp.broadcast_to(a, (size, *a.shape)), argument, of)
            for argument, of in zip(arguments[:rows], batched[:rows], strict=True)
        ]
        shared = arguments[rows]
        if any(jax.tree.leaves(batched[rows])):
            whole = jax.tree.map(lambda a, b: a if b else jnp.broadcast_to(a, (size, *a.shape)), shared, batched[rows])
            found = jax.lax.map(lambda every: mapped(*every), (*spread, whole))
        else:
            m = jax.tree.leaves(spread[0])[0].shape[1]
            folded = jax.tree.map(lambda a: a.reshape(size * m, *a.shape[2:]), spread)
            found = {
                name: value if summed(name) else value.reshape(size, m, *value.shape[1:])
                for name, value in mapped(*folded, shared).items()
            }
            apart = [name for name in found if summed(name)]
            if apart:
                each = jax.lax.map(
                    lambda every: {n: v for n, v in mapped(*every, shared).items() if n in apart}, (*spread,)
                )
                found |= each
        return found, jax.tree.map(lambda _: True, found)

    return mapped


def _operands(shared: dict[str, Array]) -> dict[str, Any]:
    return {name: shared.get(name) for name in ("w_up", "w_down", "w_gate", "b_up", "b_gate", "b_down")}

"""fused_mlp: one call, checked before anything is launched."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from parity.contract import explanation
from parity.contract.errors import UnsupportedError
from parity.contract.explanation import Explanation
from parity.contract.plan import LIBRARY, Plan, Strategy, choose
from parity.contract.problem import Problem
from parity.contract.request import NAMES, Operand, problem_of

from . import launch, reference
from .device import device_of

_GRADIENTS = (
    "an operand requires grad, carries a tangent or is under a torch.func transform, and the fused kernels have no "
    "derivatives yet; under torch.no_grad() or torch.inference_mode() the fused plan runs"
)


def fused_mlp(
    x: Float[Tensor, "*b k"],
    w_up: Float[Tensor, "h k"],
    w_down: Float[Tensor, "n h"],
    *,
    w_gate: Float[Tensor, "h k"] | None = None,
    b_up: Float[Tensor, " h"] | None = None,
    b_gate: Float[Tensor, " h"] | None = None,
    b_down: Float[Tensor, " n"] | None = None,
    activation: str = "gelu_tanh",
    precision: str = "ieee",
    plan: Plan | None = None,
) -> Float[Tensor, "*b n"]:
    """``act(x w_up^T + b_up) w_down^T + b_down``; with ``w_gate``,
    ``(act(x w_gate^T + b_gate) * (x w_up^T + b_up)) w_down^T + b_down``.

    Weights are nn.Linear's ``[out, in]``, any strides. float32, float16 or bfloat16, one for all operands; float32
    accumulation; the hidden layer and ``y`` are each rounded once to the operands' type. ``precision`` is "ieee" or,
    for float32, "tf32". ``plan`` forces how it runs; left out, ``explain`` tells what is chosen and why. Under
    autocast the operands are cast to its type, as for nn.Linear.

    Raises ValueError for operands that do not fit, UnsupportedError for a plan that cannot run here.
    """
    return _evaluate(x, w_up, w_down, w_gate, b_up, b_gate, b_down, activation, precision, plan, taps=False)["y"]


def stages(
    x: Float[Tensor, "*b k"],
    w_up: Float[Tensor, "h k"],
    w_down: Float[Tensor, "n h"],
    *,
    w_gate: Float[Tensor, "h k"] | None = None,
    b_up: Float[Tensor, " h"] | None = None,
    b_gate: Float[Tensor, " h"] | None = None,
    b_down: Float[Tensor, " n"] | None = None,
    activation: str = "gelu_tanh",
    precision: str = "ieee",
    plan: Plan | None = None,
) -> dict[str, Tensor]:
    """What passes through the kernels of one ``fused_mlp`` call, tapped where it is computed.

    "s" (the activation's argument) and, when gated, "u" (the other factor) in float32, "h" and "y" as they are.
    A ``library`` plan's "s" and "u" are in the operands' type.
    """
    return _evaluate(x, w_up, w_down, w_gate, b_up, b_gate, b_down, activation, precision, plan, taps=True)


def explain(
    x: Float[Tensor, "*b k"],
    w_up: Float[Tensor, "h k"],
    w_down: Float[Tensor, "n h"],
    *,
    w_gate: Float[Tensor, "h k"] | None = None,
    b_up: Float[Tensor, " h"] | None = None,
    b_gate: Float[Tensor, " h"] | None = None,
    b_down: Float[Tensor, " n"] | None = None,
    activation: str = "gelu_tanh",
    precision: str = "ieee",
    plan: Plan | None = None,
) -> Explanation:
    """The plan ``fused_mlp`` would run for the same arguments, why, its launches, bytes and floor. Launches nothing.
    Raises what ``fused_mlp`` raises."""
    operands = _autocast(x, w_up, w_down, w_gate, b_up, b_gate, b_down)
    problem = _problem(operands, activation, precision)
    if _needs_gradients(operands):
        return explanation.explain(problem, device_of(x), _differentiable(plan), why=_GRADIENTS)
    return explanation.explain(problem, device_of(x), plan)


def _evaluate(x, w_up, w_down, w_gate, b_up, b_gate, b_down, activation, precision, plan, *, taps) -> dict[str, Tensor]:
    operands = _autocast(x, w_up, w_down, w_gate, b_up, b_gate, b_down)
    problem = _problem(operands, activation, precision)
    x, w_up, w_down, w_gate, b_up, b_gate, b_down = operands
    device = device_of(x)
    if _needs_gradients(operands):
        plan = _differentiable(plan)
    plan = choose(problem, device, plan).plan
    named = {"w_gate": w_gate, "b_up": b_up, "b_gate": b_gate, "b_down": b_down}
    if plan.strategy is Strategy.LIBRARY:
        return reference.stages(x, w_up, w_down, **named, activation=activation, precision=precision)
    rows = x.reshape(-1, problem.in_features) if problem.m else x.new_empty(0, problem.in_features)
    out = launch.tiled(
        plan,
        device,
        rows,
        w_up,
        w_down,
        **named,
        activation=activation,
        precision=precision,
        taps=torch.float32 if taps else None,
    )
    return {name: value.view(*x.shape[:-1], value.shape[-1]) for name, value in out.items()}


def _autocast(*operands: Any) -> tuple[Any, ...]:
    """The operands as autocast would hand them to nn.Linear; as they are where it is off."""
    for name, t in zip(NAMES, operands, strict=True):
        optional = t is None and name not in ("x", "w_up", "w_down")
        if not optional and not (isinstance(t, Tensor) and t.layout is torch.strided):
            raise ValueError(f"{name} is a {type(t).__name__}, must be a strided torch.Tensor")
    kind = operands[0].device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return operands
    dtype = torch.get_autocast_dtype(kind)
    return tuple(t.to(dtype) if t is not None and t.is_floating_point() else t for t in operands)


def _problem(operands: tuple[Tensor | None, ...], activation: str, precision: str) -> Problem:
    described = (
        None if t is None else Operand(tuple(t.shape), str(t.dtype).removeprefix("torch."), str(t.device))
        for t in operands
    )
    return problem_of(*described, activation=activation, precision=precision, layout="out_in")


def _needs_gradients(operands: tuple[Tensor | None, ...]) -> bool:
    present = [t for t in operands if t is not None]
    if torch.is_grad_enabled() and any(t.requires_grad for t in present):
        return True
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in present):
        return True
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # pyright: ignore[reportAttributeAccessIssue]
    return any(wrapped(t) for t in present)


def _differentiable(plan: Plan | None) -> Plan:
    """The library plan, unless the caller insists on another."""
    if plan is not None and plan.strategy is not Strategy.LIBRARY:
        raise UnsupportedError(f"plan {plan.strategy}/{plan.backend} cannot run here: {_GRADIENTS}")
    return LIBRARY

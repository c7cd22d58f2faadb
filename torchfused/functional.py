"""fused_mlp: one call, checked before anything is launched."""

import math
from collections.abc import Iterable
from functools import lru_cache, partial
from operator import is_
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.symbolic_shapes import guard_scalar

from parity.contract import explanation
from parity.contract.choice import choose
from parity.contract.errors import UnsupportedError
from parity.contract.explanation import Explanation
from parity.contract.plan import LIBRARY, Plan, Strategy, check_plan
from parity.contract.problem import Problem
from parity.contract.request import NAMES, Operand, problem_of
from parity.contract.saved import check_save
from parity.contract.tiles import Tiles

from . import launch, launch_gate, reference, settled, training
from .device import device_of
from .hopper import ALIGNMENT
from .launcher import launches_seen

_TANGENTS = (
    "an operand carries a tangent (forward mode) or is under a torch.func transform, which the fused kernels do not "
    "serve; torch.autograd and torch.no_grad() run the fused plan"
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
    save: str = "preact",
) -> Float[Tensor, "*b n"]:
    """``act(x w_up^T + b_up) w_down^T + b_down``; with ``w_gate``,
    ``(act(x w_gate^T + b_gate) * (x w_up^T + b_up)) w_down^T + b_down``.

    Weights are nn.Linear's ``[out, in]``, any strides. float32, float16 or bfloat16, one for all operands; float32
    accumulation; the hidden layer and ``y`` are each rounded once to the operands' type. ``precision`` is "ieee" or,
    for float32, "tf32". ``plan`` forces how it runs; left out, ``explain`` tells what is chosen and why. A plan of the
    vendor's order gives the bits of torch's eager MLP (contract/vendor.py), but not those of its gradients; without a
    split_k it is refused where the torch that runs is not the build on record. Under autocast the operands are cast to
    its type, as for nn.Linear.

    Differentiable once by torch.autograd; a gradient has its operand's type. ``save`` is what a fused plan keeps for
    the backward: "preact" (the pre-activations), "hidden" (those and the hidden layer), or "recompute" (nothing: the
    first GEMM is run again); parity/contract/saved.py.

    Raises ValueError for operands that do not fit, UnsupportedError for a plan that cannot run here.
    """
    operands = x, w_up, w_down, w_gate, b_up, b_gate, b_down
    if not torch.compiler.is_compiling():
        y = settled.again(operands, activation, precision, check_plan(plan), save)
        if y is not None:
            return y
    return _evaluate(operands, activation, precision, plan, save)["y"]


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
    return _evaluate((x, w_up, w_down, w_gate, b_up, b_gate, b_down), activation, precision, plan, None)


def gradients(
    dy: Float[Tensor, "*b n"],
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
    save: str = "preact",
) -> dict[str, Tensor]:
    """What passes through the backward's kernels for the upstream ``dy``, tapped where it is computed.

    "d_<operand>" for each operand given; of a fused plan also "s" (and "u") and "h" as the backward used them, "d_s"
    and, when gated, "d_u": the gradients of the pre-activations. All in the operands' type.
    """
    check_save(save)
    operands = _checked(x, w_up, w_down, w_gate, b_up, b_gate, b_down)
    named = {name: t for name, t in zip(NAMES, operands, strict=True) if t is not None}
    options: dict[str, Any] = {"activation": activation, "precision": precision}
    text = _decide(_described(operands), activation, precision, plan, True)
    if not text:
        return reference.gradients(dy, **named, **options)
    chosen, device, lead = Plan.from_json(text), device_of(x), x.shape[:-1]
    x, dy = _rows(x), _rows(dy)
    taps = launch.tiled_hidden(
        chosen, device, x, w_up, w_gate=w_gate, b_up=b_up, b_gate=b_gate, **options, taps=x.dtype
    )
    saved = {name: tap for name, tap in taps.items() if name != "h" or save != "preact"}
    found = dict(saved) | launch.tiled_backward(
        chosen, device, dy, x, w_up, w_down, w_gate=w_gate, saved=saved, needs=list(named), **options, taps=True
    )
    over_rows = ("s", "u", "h", "d_s", "d_u", "d_x")
    return {n: t.view(*lead, t.shape[-1]) if n in over_rows else t for n, t in found.items()}


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
    save: str = "preact",
) -> Explanation:
    """The plan ``fused_mlp`` would run for the same arguments, why, its launches, bytes and floor. Launches nothing.
    Raises what ``fused_mlp`` raises."""
    check_save(save)
    operands = _autocast(*_checked(x, w_up, w_down, w_gate, b_up, b_gate, b_down))
    device, described = _described(operands)
    problem = _problem(described, activation, precision)
    if _is_transformed(operands):
        return explanation.explain(problem, device_of(device), _served(plan), why=_TANGENTS)
    trains = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in operands)
    return explanation.explain(problem, device_of(device), plan, training=trains)


def _evaluate(given: tuple[Any, ...], activation: str, precision: str, plan, save: str | None) -> dict[str, Tensor]:
    """The stages; y alone where ``save`` says what a backward would need, all of them where it is None."""
    operands = _autocast(*_checked(*given))
    if save is not None:
        check_save(save)
    trains = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in operands)
    compiled = torch.compiler.is_compiling()
    transformed = not compiled and _is_transformed(operands)
    text = _decide(_described(operands), activation, precision, _served(plan) if transformed else plan, trains)
    x, w_up, w_down, w_gate, b_up, b_gate, b_down = operands
    named = {"w_gate": w_gate, "b_up": b_up, "b_gate": b_gate, "b_down": b_down}
    options: dict[str, Any] = {"activation": activation, "precision": precision}
    key = None if compiled or save is None else settled.key_of(given, activation, precision, plan, save)
    if not text:
        if key is None:
            return reference.stages(x, w_up, w_down, **named, **options)
        compute = partial(reference.mlp, **options, gating=launch_gate.gating)
        if all(map(is_, operands, given)):
            settled.settle_library(key, compute, NAMES)
        return {"y": compute(x, w_up, w_down, **named)}
    if save is not None and key is None:
        out = {"y": training.mlp(text, _rows(x), w_up, w_down, **named, **options, save=save)}
    else:
        chosen, taps = Plan.from_json(text), torch.float32 if save is None else None
        with launches_seen() as launches:
            out = launch.forward(chosen, device_of(x), _rows(x), w_up, w_down, **named, **options, taps=taps)
        if key is not None:
            settled.settle(key, chosen, given, launches, out)
    return {name: value.view(*x.shape[:-1], value.shape[-1]) for name, value in out.items()}


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]) if x.shape[-1] else x.reshape(math.prod(x.shape[:-1]), 0)


def _checked(*operands: Any) -> tuple[Any, ...]:
    for name, t in zip(NAMES, operands, strict=True):
        optional = t is None and name not in ("x", "w_up", "w_down")
        if not optional and not (isinstance(t, Tensor) and t.layout is torch.strided):
            raise ValueError(f"{name} is a {type(t).__name__}, must be a strided torch.Tensor")
    return operands


def _autocast(*operands: Any) -> tuple[Any, ...]:
    """The operands as autocast would hand them to nn.Linear; as they are where it is off."""
    dtype = settled.autocast_type(operands[0].device.type)
    if dtype is None:
        return operands
    return tuple(t.to(dtype) if t is not None and t.is_floating_point() else t for t in operands)


def _described(operands: tuple[Any, ...]) -> tuple[torch.device, tuple]:
    """What the decision hangs on, in values that a compiler's trace holds as constants."""
    shape = _constant_shape if torch.compiler.is_compiling() else _shape
    return operands[0].device, tuple(
        None if t is None else (shape(t), t.dtype, t.device, _is_packed(t)) for t in operands
    )


def _is_packed(t: Tensor) -> bool:
    if torch.compiler.is_compiling() or not t.is_contiguous() or type(t) not in (Tensor, nn.Parameter):
        return t.is_contiguous()
    try:
        return t.data_ptr() % ALIGNMENT == 0
    except RuntimeError:
        # One that a transform has wrapped lies nowhere.
        return True


def _shape(t: Tensor) -> tuple[int, ...]:
    return tuple(t.shape)


def _constant_shape(t: Tensor) -> tuple[Any, ...]:
    return _constants(t.shape)


def _constants(numbers: Iterable[int]) -> tuple[Any, ...]:
    # A trace whose sizes are dynamic, or a second plan's numbers, is made anew for each: what is decided hangs on them.
    return tuple([guard_scalar(number) for number in numbers])


def _decide(described: tuple, activation: str, precision: str, plan: Plan | None, trains: bool) -> str:
    check_plan(plan)
    if not torch.compiler.is_compiling():
        return _decided(described, activation, precision, plan, trains)
    parts = None
    if plan is not None:
        # (dynamo of torch 2.11 hands on what a plan is made of, and no plan.)
        tiles = tuple([None if cut is None else _constants((cut.m, cut.n, cut.k)) for cut in (plan.up, plan.down)])
        splits = None if plan.split_k is None else _constants(plan.splits)
        parts = plan.strategy, plan.backend, tiles, splits, plan.order
    return _constant(described, activation, precision, parts, trains)


# The contract is plain Python that a trace of torch.compile need not follow: its answer is a constant of the trace.
@torch.compiler.assume_constant_result
def _constant(described: tuple, activation: str, precision: str, parts: tuple | None, trains: bool) -> str:
    if parts is None:
        return _decided(described, activation, precision, None, trains)
    strategy, backend, tiles, split_k, order = parts
    up, down = (Tiles(m=cut[0], n=cut[1], k=cut[2]) if cut else None for cut in tiles)
    plan = Plan(strategy=strategy, backend=backend, up=up, down=down, split_k=split_k, order=order)
    return _decided(described, activation, precision, plan, trains)


@lru_cache(maxsize=4096)
def _decided(described: tuple, activation: str, precision: str, plan: Plan | None, trains: bool) -> str:
    """The chosen plan as text; empty for the library plan."""
    device, operands = described
    chosen = choose(_problem(operands, activation, precision), device_of(device), plan, training=trains).plan
    return "" if chosen == LIBRARY else chosen.to_json()


def _problem(operands: tuple, activation: str, precision: str) -> Problem:
    described = (
        None if t is None else Operand(t[0], str(t[1]).removeprefix("torch."), str(t[2]), t[3]) for t in operands
    )  # fmt: skip
    return problem_of(*described, activation=activation, precision=precision, layout="out_in")


def _is_transformed(operands: tuple[Tensor | None, ...]) -> bool:
    present = [t for t in operands if t is not None]
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in present):
        return True
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # pyright: ignore[reportAttributeAccessIssue]
    return any(wrapped(t) for t in present)


def _served(plan: Plan | None) -> Plan:
    """The library plan, unless the caller insists on another."""
    if plan is not None and plan.strategy is not Strategy.LIBRARY:
        raise UnsupportedError(f"plan {plan.strategy}/{plan.backend} cannot run here: {_TANGENTS}")
    return LIBRARY

"""A call's operands -> the Problem they state, or the ValueError that says what does not fit. Both twins ask here,
so both say the same."""

import math
from functools import lru_cache
from typing import Literal, NamedTuple

from .problem import Problem

Layout = Literal["out_in", "in_out"]
# The operands of a call, in the order every function of both twins takes them.
NAMES = ("x", "w_up", "w_down", "w_gate", "b_up", "b_gate", "b_down")


class Operand(NamedTuple):
    """What there is to check about one array: ``dtype`` and ``device`` by name; ``packed`` as in Problem."""

    shape: tuple[int, ...]
    dtype: str
    device: str
    packed: bool = True


@lru_cache(maxsize=4096)
def problem_of(
    x: Operand,
    w_up: Operand,
    w_down: Operand,
    w_gate: Operand | None,
    b_up: Operand | None,
    b_gate: Operand | None,
    b_down: Operand | None,
    *,
    activation: str,
    precision: str,
    layout: Layout,
) -> Problem:
    """The Problem of ``fused_mlp(x, w_up, w_down, ...)``.

    ``x`` is ``[..., in_features]``; weights are ``[out, in]`` or ``[in, out]``, as ``layout`` says; biases are
    vectors. Raises ValueError naming the argument, its shape or type, and what was expected.
    """
    if b_gate is not None and w_gate is None:
        raise ValueError("b_gate is given without w_gate: a plain MLP has no gate; pass w_gate as well or drop b_gate")
    operands = (x, w_up, w_down, w_gate, b_up, b_gate, b_down)
    present = {name: operand for name, operand in zip(NAMES, operands, strict=True) if operand is not None}
    for name, operand in present.items():
        if operand.dtype != x.dtype:
            raise ValueError(f"{name} is {operand.dtype} and x is {x.dtype}: all operands must share one dtype")
        if operand.device != x.device:
            raise ValueError(f"{name} is on {operand.device} and x is on {x.device}: move them to one device")

    if not x.shape:
        raise ValueError("x is a scalar, must be [..., in_features]")
    hidden, in_features = _weight("w_up", w_up, layout)
    out_features, hidden_down = _weight("w_down", w_down, layout)
    if in_features != x.shape[-1]:
        raise ValueError(_mismatch("w_up", w_up, "in", in_features, f"x's last dim is {x.shape[-1]}", layout))
    if hidden_down != hidden:
        raise ValueError(_mismatch("w_down", w_down, "in", hidden_down, f"w_up's out dim is {hidden}", layout))
    if w_gate is not None and _weight("w_gate", w_gate, layout) != (hidden, in_features):
        raise ValueError(f"w_gate has shape {list(w_gate.shape)}, must be w_up's {list(w_up.shape)}")
    for name, bias, size in (("b_up", b_up, hidden), ("b_gate", b_gate, hidden), ("b_down", b_down, out_features)):
        if bias is not None and bias.shape != (size,):
            raise ValueError(f"{name} has shape {list(bias.shape)}, must be [{size}], its weight's out dim")

    return Problem(
        m=math.prod(x.shape[:-1]),
        in_features=in_features,
        hidden_features=hidden,
        out_features=out_features,
        activation=activation,
        gated=w_gate is not None,
        bias_up=b_up is not None,
        bias_gate=b_gate is not None,
        bias_down=b_down is not None,
        dtype=x.dtype,
        precision=precision,
        packed=all(operand.packed for operand in present.values()),
    )


def _weight(name: str, w: Operand, layout: Layout) -> tuple[int, int]:
    """``(out, in)`` of a weight."""
    if len(w.shape) != 2:
        raise ValueError(f"{name} has shape {list(w.shape)}, must be {_layout(layout)}")
    return (w.shape[0], w.shape[1]) if layout == "out_in" else (w.shape[1], w.shape[0])


def _mismatch(name: str, w: Operand, side: str, size: int, other: str, layout: Layout) -> str:
    dim = _layout(layout).strip("[]").split(", ").index(side)
    return f"{name} has shape {list(w.shape)}: its {side} dim ({dim}) is {size}, {other}; it must be {_layout(layout)}"


def _layout(layout: Layout) -> str:
    return "[out, in]" if layout == "out_in" else "[in, out]"

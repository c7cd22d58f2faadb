"""The gate before the stopwatch: every contender against float64, within a bound that says where it comes from.

Checked: 64 rows of y and, after a backward pass, the same rows of dx and the rows of dW_up, dW_gate, dW_down^T and the
bias gradients that belong to 64 hidden units. The measure is the relative error in the Euclidean norm,
``|y - ref| / |ref|``.

Bound, ``u`` the data type's unit roundoff, ``a = slope * |z| / |act(z)|`` (how much an activation magnifies a relative
error of its input, root mean square over a standard normal z):

    a (sqrt(8) u + stat(K)) + sqrt(2) u + stat(H)

8 roundings are what an unfused activation evaluated in the data type may take (``UNFUSED_ROUNDINGS``), 2 are h and y;
independent roundings add in squares. ``stat`` is tolerance.chain_bound's coefficient of a GEMM, its bias with it. A
gradient passes through both a forward and a backward chain: twice the bound, with the sums over the rows counted in.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.contract.activations import ACTIVATIONS
from parity.contract.dtypes import DTYPES
from parity.contract.tolerance import UNFUSED_ROUNDINGS, Arithmetic, chain_bound

from .stimulus import activation, second_moment
from .workloads import Case, workload

ROWS = 64
UNITS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """``error``: the worst relative error over the checked tensors, ``worst`` its name."""

    correct: bool
    error: float
    tolerance: float
    worst: str


def picks(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The rows and the hidden units that are checked, the same in every process."""
    rng = np.random.default_rng(case.m)
    rows = np.sort(rng.permutation(case.m)[:ROWS])
    units = np.sort(rng.permutation(case.problem.hidden_features)[:UNITS])
    return rows, units


def tolerance(case: Case) -> float:
    """The bound on y of the module's docstring."""
    p, work = case.problem, workload(case.workload)
    act = ACTIVATIONS[p.activation]
    gain = math.sqrt(second_moment(work) / (1.25 if work.gated and work.biases else 1.0))
    magnify = (2.0 if act.slope is None else act.slope) / min(gain, 1.0)
    u = DTYPES[p.dtype].unit_roundoff
    arithmetic = "ieee" if p.dtype == "float32" else "tensor"
    up, down = _gemm(p.in_features, arithmetic), _gemm(p.hidden_features, arithmetic)
    return magnify * (math.sqrt(UNFUSED_ROUNDINGS) * u + up) + math.sqrt(2) * u + down


def _gemm(length: int, arithmetic: Arithmetic) -> float:
    bound = chain_bound(length, arithmetic)
    return bound.stat + bound.bias


def gradient_tolerance(case: Case) -> float:
    """The bound on gradients."""
    arithmetic = "ieee" if case.dtype == "float32" else "tensor"
    return 2 * (tolerance(case) + _gemm(case.m, arithmetic))


def reference(case: Case, t: dict[str, Any], xp: Any = np, erf: Any = None) -> dict[str, Any]:
    """The float64 reference of what is checked; ``t`` holds one layer's float64 tensors in torch's layout, arrays of
    ``xp`` (numpy or torch, whose subset used here is spelled alike)."""
    rows, units = (list(map(int, p)) for p in picks(case))
    act = case.problem.activation
    out = {"y": _forward(t, t["x"][rows], act, xp, erf)}
    if case.mode == "forward":
        return out
    zero = 0 * t["x"][:1, :1]

    def pre(name: str, x: Any, pick: Any) -> Any:
        bias = t[f"b_{name}"][pick] if f"b_{name}" in t else zero[0]
        return x @ t[f"w_{name}"][pick].T + bias

    def hidden_gradients(x: Any, g: Any, pick: Any) -> tuple[Any, Any, Any]:
        """h and the gradients of the up and gate pre-activations, for the hidden units in ``pick``."""
        dh = g @ t["w_down"][:, pick]
        up = pre("up", x, pick)
        if "w_gate" not in t:
            return activation(act, up, xp, erf), dh * _slope(act, up, xp, erf), None
        gate = pre("gate", x, pick)
        f = activation(act, gate, xp, erf)
        return f * up, dh * f, dh * up * _slope(act, gate, xp, erf)

    _, d_up, d_gate = hidden_gradients(t["x"][rows], t["g"][rows], slice(None))
    out["dx"] = d_up @ t["w_up"] + (d_gate @ t["w_gate"] if d_gate is not None else 0)
    h, d_up, d_gate = hidden_gradients(t["x"], t["g"], units)
    out["dw_up"], out["dw_down"] = d_up.T @ t["x"], t["g"].T @ h
    if d_gate is not None:
        out["dw_gate"] = d_gate.T @ t["x"]
    for name, d in (("up", d_up), ("gate", d_gate)):
        if d is not None and f"b_{name}" in t:
            out[f"db_{name}"] = d.sum(0)
    if "b_down" in t:
        out["db_down"] = t["g"].sum(0)
    return out


def check(case: Case, got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> Check:
    """The verdict on one contender's tensors (float64, already picked). A missing or non-finite one is wrong."""
    worst, worst_share, worst_error, bound = "y", -1.0, math.inf, tolerance(case)
    for name, ref in want.items():
        allowed = tolerance(case) if name == "y" else gradient_tolerance(case)
        error = math.inf
        if name in got and np.shape(got[name]) == np.shape(ref) and np.isfinite(got[name]).all():
            error = float(np.linalg.norm(got[name] - ref) / np.linalg.norm(ref))
        if error / allowed > worst_share:
            worst, worst_share, worst_error, bound = name, error / allowed, error, allowed
    return Check(correct=worst_share <= 1, error=worst_error, tolerance=bound, worst=worst)


def pick(case: Case, name: str, value: Any) -> Any:
    """The checked part of one full tensor in torch's layout."""
    rows, units = picks(case)
    if name in ("y", "dx"):
        return value[rows]
    if name == "dw_down":
        return value[:, units]
    return value if name == "db_down" else value[units]


def _forward(t: dict[str, Any], x: Any, act: str, xp: Any, erf: Any) -> Any:
    up = x @ t["w_up"].T + (t["b_up"] if "b_up" in t else 0)
    if "w_gate" in t:
        gate = x @ t["w_gate"].T + (t["b_gate"] if "b_gate" in t else 0)
        h = activation(act, gate, xp, erf) * up
    else:
        h = activation(act, up, xp, erf)
    return h @ t["w_down"].T + (t["b_down"] if "b_down" in t else 0)


def _slope(act: str, s: Any, xp: Any, erf: Any) -> Any:
    """f'(s) by a central difference: its error, about 1e-10, is far below what is checked."""
    d = 1e-5
    return (activation(act, s + d, xp, erf) - activation(act, s - d, xp, erf)) / (2 * d)

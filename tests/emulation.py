"""The kernels' arithmetic in numpy, step by step in float32, and the ways it could be wrong that must be found."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from parity import emulator
from parity.adder import Adder
from parity.contract.problem import Problem
from parity.epilogue import CONTRACT
from parity.rounding import round_tf32, round_to

F = np.float32
# Each changes one thing. Where the format has no such rounding, the mutant makes one: see below.
MUTANTS = (
    "dropped_k_tail",
    "dropped_h_tail",
    "bias_up_skipped",
    "bias_down_skipped",
    "bias_added_twice",
    "wrong_gelu",
    "h_not_rounded",
    "s_rounded",
    "y_truncated",
    "tiles_swapped",
    "rows_swapped",
    "gate_up_swapped",
    "coarse_accumulator",
)


def emulate(
    problem: Problem,
    arrays: Mapping[str, np.ndarray],
    mutant: str = "",
    *,
    tensor: bool = False,
    splits: int = 1,
) -> dict[str, np.ndarray]:
    """The fused stages: s and u float32, h and y in the problem's dtype. ``tensor``: as tensor cores accumulate."""
    half = problem.dtype != "float32"
    given = {name: array.astype(F) for name, array in arrays.items()}
    if mutant in ("bias_up_skipped", "bias_down_skipped"):
        given.pop(f"b_{mutant.split('_')[1]}", None)

    def linear(x: np.ndarray, layer: str, length: int, as_is: bool = False) -> np.ndarray:
        w = given[f"w_{layer}"]
        if problem.precision == "tf32":
            x, w = (x if as_is else round_tf32(x)), round_tf32(w)
        product = gemm(x[:, :length], w[:length], tensor=tensor, terms=16 if half else 8, splits=splits, mutant=mutant)
        bias = given.get(f"b_{layer}")
        product = product if bias is None else product + bias
        return product + bias if mutant == "bias_added_twice" and layer == "down" and bias is not None else product

    k = problem.in_features - (mutant == "dropped_k_tail")
    s = up = linear(given["x"], "up", k)
    if problem.gated:
        s = linear(given["x"], "gate", k)
    if mutant == "gate_up_swapped":
        s, up = up, s
    name = "gelu" if mutant == "wrong_gelu" and problem.activation == "gelu_tanh" else problem.activation
    # Float32 has no narrower dtype to round to unasked: there the mutants round to tf32.
    at = (round_to(s, problem.dtype).astype(F) if half else round_tf32(s)) if mutant == "s_rounded" else s
    wide = ACTIVATIONS[name](at)
    wide = wide * up if problem.gated else wide
    h = round_to(wide, problem.dtype)
    hidden = h.astype(F)
    if mutant == "h_not_rounded":
        hidden = wide if half else round_tf32(wide)
    as_is = mutant == "h_not_rounded" and problem.precision == "tf32"
    y = linear(wide if as_is else hidden, "down", problem.hidden_features - (mutant == "dropped_h_tail"), as_is)
    if mutant == "y_truncated":
        out = _toward_zero(y, problem.dtype) if half else _tf32_toward_zero(y)
    else:
        out = round_to(y, problem.dtype)
    if mutant == "tiles_swapped":
        out[:, :32] = np.roll(out[:, :32], 16, axis=1)
    if mutant == "rows_swapped":
        out[[0, 1]] = out[[1, 0]]
    return ({"s": s, "u": up} if problem.gated else {"s": s}) | {"h": h, "y": out}


def gemm(x, w, *, tensor: bool = False, terms: int = 16, splits: int = 1, mutant: str = "") -> np.ndarray:
    """Float32 accumulation in ascending K: one chain, or ``splits`` of them, added in ascending order."""
    # Inputs of tf32 have been rounded; an IEEE product is rounded before it is added, to differ from the oracle more.
    adder = Adder(terms=terms) if tensor else Adder(contracted=False)
    if not x.shape[1]:
        return np.zeros((len(x), w.shape[1]), F)
    if mutant != "coarse_accumulator":
        return emulator.gemm(x, w, emulator.ascending(x.shape[1], chains=splits, terms=adder.terms), adder)
    total = np.zeros((len(x), w.shape[1]), F)
    for k in range(0, x.shape[1], terms):
        order = emulator.ascending(len(w[k : k + terms]), terms=adder.terms)
        total = emulator.gemm(x[:, k : k + terms], w[k : k + terms], order, adder, start=total)
        total = round_to(total, "bfloat16").astype(F)
    return total


def _toward_zero(values: np.ndarray, dtype: str) -> np.ndarray:
    near = round_to(values, dtype)
    over = np.abs(near.astype(float)) > np.abs(values.astype(float))
    return np.where(over, np.nextafter(near, near.dtype.type(0)), near)


def _tf32_toward_zero(values: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(values).view(np.uint32) & np.uint32(0xFFFFE000)).view(F)


ACTIVATIONS = {name: partial(function, contracted=False) for name, function in CONTRACT.items()}

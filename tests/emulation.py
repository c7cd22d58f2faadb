"""The kernels' arithmetic in numpy, step by step in float32, and the ways it could be wrong that must be found."""

from collections.abc import Mapping

import numpy as np

from parity.contract import activations as table
from parity.contract.problem import Problem
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
    total = np.zeros((len(x), w.shape[1]), F)
    for part in np.array_split(np.arange(x.shape[1]), splits):
        chain = np.zeros_like(total)
        for block in (part[i : i + terms] for i in range(0, len(part), terms)):
            if tensor:
                chain = _fused_add(chain, x[:, block], w[block])
            else:
                for k in block:
                    chain += x[:, k, None] * w[k]
            if mutant == "coarse_accumulator":
                chain = round_to(chain, "bfloat16").astype(F)
        total = total + chain
    return total


def _fused_add(c: np.ndarray, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """A tensor core's step: terms truncated to 25 bits below the largest exponent, the sum to float32."""
    parts = np.concatenate([c.astype(float)[None], x.T.astype(float)[:, :, None] * w.astype(float)[:, None, :]])
    _, exponent = np.frexp(np.abs(parts).max(axis=0))
    quantum = np.ldexp(1.0, exponent - 1 - 25)
    return _toward_zero(np.sum(np.trunc(parts / quantum) * quantum, axis=0), "float32")


def _toward_zero(values: np.ndarray, dtype: str) -> np.ndarray:
    near = round_to(values, dtype)
    over = np.abs(near.astype(float)) > np.abs(values.astype(float))
    return np.where(over, np.nextafter(near, near.dtype.type(0)), near)


def _tf32_toward_zero(values: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(values).view(np.uint32) & np.uint32(0xFFFFE000)).view(F)


def _sigmoid_like(s: np.ndarray, exponent: float) -> np.ndarray:
    return F(1) + np.exp2(s * F(exponent))


def _gelu(s: np.ndarray) -> np.ndarray:
    a = np.abs(s)
    t = F(1) / (F(1) + F(table.GELU_T) * a)
    p = np.full_like(s, table.GELU_P[-1])
    for c in reversed(table.GELU_P[:-1]):
        p = p * t + F(c)
    q = (t * p) * np.exp2((a * a) * F(table.GELU_EXPONENT))
    return s * np.where(s < 0, q, F(1) - q)


def _gelu_tanh(s: np.ndarray) -> np.ndarray:
    inner = F(table.GELU_TANH_EXPONENT) + F(table.GELU_TANH_EXPONENT_CUBIC) * (s * s)
    return s / (F(1) + np.exp2(s * inner))


def _tanh(s: np.ndarray) -> np.ndarray:
    a, z = np.abs(s), s * s
    q = np.full_like(s, table.TANH_Q[-1])
    for c in reversed(table.TANH_Q[:-1]):
        q = q * z + F(c)
    big = F(1) - F(2) / (F(1) + np.exp2(a * F(table.TANH_EXPONENT)))
    return np.where(a < F(table.TANH_CUT), s + s * (z * q), np.copysign(big, s))


ACTIVATIONS = {
    "relu": lambda s: np.where(s <= 0, F(0), s),
    "relu2": lambda s: np.where(s <= 0, F(0), s) ** 2,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": lambda s: s / _sigmoid_like(s, table.QUICK_GELU_EXPONENT),
    "silu": lambda s: s / _sigmoid_like(s, table.SILU_EXPONENT),
    "sigmoid": lambda s: F(1) / _sigmoid_like(s, table.SILU_EXPONENT),
    "tanh": _tanh,
    "identity": lambda s: s,
}

"""The fused MLP in numpy float64: what each stage should be, exactly or with the contract's roundings.

    s = x W + b            the argument of the activation (gated: the gate's)
    u = x W_up + b_up      gated only
    h = act(s) [* u]
    y = h W_down + b_down

Weights are ``[in, out]``. With precision "tf32" both inputs of each GEMM are rounded first (``round_tf32``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from .contract.problem import Problem
from .rounding import round_tf32, round_to

Stages = dict[str, np.ndarray]


def _relu(s: np.ndarray) -> np.ndarray:
    return np.where(s <= 0, 0.0, s)


def _gelu_tanh(s: np.ndarray) -> np.ndarray:
    return s * special.expit(2.0 * np.sqrt(2.0 / np.pi) * (s + 0.044715 * s**3))


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": _relu,
    "relu2": lambda s: _relu(s) ** 2,
    "gelu": lambda s: s * special.ndtr(s),
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": lambda s: s * special.expit(1.702 * s),
    "silu": lambda s: s * special.expit(s),
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "identity": lambda s: s,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Oracle:
    """One problem's operands in float64 and its stages, twice.

    ``rounded``: h rounded to the dtype before the second GEMM, h and y given in it. ``pure``: nothing rounded after
    the inputs. ``hidden`` is the second GEMM's left operand: the rounded h, or that in tf32.
    """

    problem: Problem
    operands: dict[str, np.ndarray]
    rounded: Stages
    pure: Stages

    @property
    def hidden(self) -> np.ndarray:
        return operand(self.rounded["h"], self.problem)

    def after(self, taps: Mapping[str, np.ndarray]) -> Stages:
        """Each stage computed from a runner's own previous stage: what its last step alone should have given."""
        problem, taps = self.problem, {stage: np.asarray(tap, np.float64) for stage, tap in taps.items()}
        with np.errstate(all="ignore"):
            h = hidden(problem, taps["s"], taps.get("u"))
            y = _affine(operand(taps["h"], problem), self.operands, "down")
        local = {stage: self.rounded[stage] for stage in ("s", "u") if stage in self.rounded}
        return local | {"h": _rounded(h, problem), "y": _rounded(y, problem)}


def evaluate(problem: Problem, arrays: Mapping[str, np.ndarray]) -> Oracle:
    """The oracle of ``problem`` for the stimulus ``arrays`` (x, w_up, w_down, ..., in the problem's dtype)."""
    operands = {
        name: array.astype(np.float64) if name.startswith("b_") else operand(array, problem)
        for name, array in arrays.items()
    }
    with np.errstate(all="ignore"):
        up = _affine(operands["x"], operands, "up")
        stages = {"s": _affine(operands["x"], operands, "gate"), "u": up} if problem.gated else {"s": up}
        h = hidden(problem, stages["s"], stages.get("u"))
        h_rounded = _rounded(h, problem)
        pure = stages | {"h": h, "y": _affine(h, operands, "down")}
        y = _affine(operand(h_rounded, problem), operands, "down")
    rounded = stages | {"h": h_rounded, "y": _rounded(y, problem)}
    return Oracle(problem=problem, operands=operands, rounded=rounded, pure=pure)


def evaluate_integers(problem: Problem, arrays: Mapping[str, np.ndarray]) -> Stages:
    """The stages in int64, for integer arrays and an activation that keeps integers (relu, relu2, identity).

    Raises ValueError if a stage, or any partial sum, would not be exact in a float32 accumulator and the dtype.
    """
    functions = {
        "relu": lambda s: np.maximum(s, 0),
        "relu2": lambda s: np.maximum(s, 0) ** 2,
        "identity": lambda s: s,
    }
    if problem.activation not in functions:
        raise ValueError(f"{problem.activation} does not keep integers; use one of {', '.join(functions)}")
    whole = {name: array.astype(np.float64).astype(np.int64) for name, array in arrays.items()}
    sizes = {name: np.abs(array) for name, array in whole.items()}
    up = _affine(whole["x"], whole, "up")
    stages = {"s": _affine(whole["x"], whole, "gate"), "u": up} if problem.gated else {"s": up}
    h = functions[problem.activation](stages["s"])
    h = h * stages["u"] if problem.gated else h
    stages |= {"h": h, "y": _affine(h, whole, "down")}
    partial = _affine(np.abs(h), sizes, "down")
    if partial.size and partial.max() > 2**24:
        raise ValueError(f"partial sums reach {partial.max()}, float32 is exact to {2**24}; use smaller sizes")
    for stage, values in stages.items():
        if (round_to(values.astype(np.float64), problem.dtype).astype(np.int64) != values).any():
            raise ValueError(f"{stage} reaches {np.abs(values).max()}, not exact in {problem.dtype}; use smaller sizes")
    return stages


def hidden(problem: Problem, s: np.ndarray, u: np.ndarray | None) -> np.ndarray:
    """``act(s)``, times ``u`` if the problem is gated. Not rounded."""
    f = FUNCTIONS[problem.activation](s)
    return f if u is None else f * u


def operand(values: np.ndarray, problem: Problem) -> np.ndarray:
    """``values`` as a GEMM takes them: in tf32 where that was asked for, then exact in float64."""
    return (round_tf32(values) if problem.precision == "tf32" else values).astype(np.float64)


def _affine(left: np.ndarray, operands: Mapping[str, np.ndarray], layer: str) -> np.ndarray:
    product = left @ operands[f"w_{layer}"]
    return product + operands[f"b_{layer}"] if f"b_{layer}" in operands else product


def _rounded(values: np.ndarray, problem: Problem) -> np.ndarray:
    return round_to(values, problem.dtype).astype(np.float64)

"""What a wrong stage looks like: the likely faults, tried on its numbers in float64. A hint, not a verdict."""

import numpy as np

from .contract.problem import Problem
from .oracle import FUNCTIONS, hidden
from .rounding import ulp

FORMULA = 8
# A slip is told from others by far more than this: the bounds are those of the right result, this is a wrong one.
SLACK = 2


def linear(found: np.ndarray, left: np.ndarray, right: np.ndarray, bias: np.ndarray | None, allowed: np.ndarray) -> str:
    """Which slip in ``left @ right + bias`` gives ``found`` within ``allowed``; empty: none of those known."""
    whole = left @ right
    off = found - (whole if bias is None else whole + bias)
    if bias is not None:
        for text, slip in (("the bias is missing", -bias), ("the bias was added twice", bias)):
            if _explains(off, np.broadcast_to(slip, off.shape), allowed):
                return text
    # Of each term k by itself: how much of the difference is left if it was not added.
    scores = np.sum((left.T @ off) * right, axis=1)
    sizes = np.sum(left**2, axis=0) * np.sum(right**2, axis=1)
    k = int(np.argmin(2 * scores + sizes))
    if _explains(off, -np.outer(left[:, k], right[k]), allowed):
        return f"summand {k} of {left.shape[1]} is missing"
    if not np.isfinite(found).all():
        return "not every element is finite"
    return ""


def activation(problem: Problem, s: np.ndarray, u: np.ndarray | None, found: np.ndarray) -> str:
    """Which other activation gives ``found`` from s and u."""
    factor = np.ones(()) if u is None else u.astype(float)
    # The rounding of h, and what a formula in float32 may be off by: little against the distance of two activations.
    allowed = 2 * ulp(found, problem.dtype) + FORMULA * ulp(np.maximum(np.abs(s), 1.0) * np.abs(factor), "float32")
    for name, function in FUNCTIONS.items():
        with np.errstate(all="ignore"):
            if name != problem.activation and (np.abs(found - function(s) * factor) <= allowed).all():
                return f"it is {name}"
    return ""


def wide_hidden(problem: Problem, s: np.ndarray, u: np.ndarray | None) -> np.ndarray:
    """h before it is rounded."""
    return hidden(problem, s, None if u is None else u.astype(float))


def _explains(off: np.ndarray, slip: np.ndarray, allowed: np.ndarray) -> bool:
    return bool((np.abs(off - slip) <= SLACK * allowed).all())

"""The gradients of the fused MLP in numpy float64: what each stage of the backward should be, with its roundings.

    dh = dy W_down^T
    d_s = dh f'(s)                              plain
    d_s = dh u f'(s),   d_u = dh f(s)           gated
    d_w_down = h^T dy       d_b_down = sum over rows of dy
    d_w_up = x^T d_u        d_b_up = sum over rows of d_u        plain: d_s in the place of d_u
    d_w_gate = x^T d_s      d_b_gate = sum over rows of d_s
    d_x = d_u W_up^T + d_s W_gate^T

s, u are what the forward saved, rounded to the dtype; h is the forward's, or ("preact") computed from them. d_s and d_u
are rounded to the dtype, the gradients too. With "tf32" both inputs of each GEMM are rounded; sums over rows are not.
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy import special

from .contract.problem import Problem
from .oracle import Oracle, Stages, hidden, operand
from .rounding import round_to

# float64's own; the kernels' spelling is contract/activations.py's.
DERIVATIVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda s: np.where(s <= 0, 0.0, 1.0),
    "relu2": lambda s: np.where(s <= 0, 0.0, 2.0 * s),
    "gelu": lambda s: special.ndtr(s) + s * np.exp(-0.5 * s**2) / np.sqrt(2.0 * np.pi),
    "gelu_tanh": lambda s: _sigmoid_product(
        s, 2.0 * np.sqrt(2.0 / np.pi) * (s + 0.044715 * s**3), 2.0 * np.sqrt(2.0 / np.pi) * (1.0 + 3 * 0.044715 * s**2)
    ),
    "quick_gelu": lambda s: _sigmoid_product(s, 1.702 * s, 1.702),
    "silu": lambda s: _sigmoid_product(s, s, 1.0),
    "sigmoid": lambda s: special.expit(s) * special.expit(-s),
    "tanh": lambda s: 4.0 * special.expit(2.0 * s) * special.expit(-2.0 * s),
    "identity": lambda s: np.ones_like(s),
}


def evaluate_gradients(oracle: Oracle, dy: np.ndarray, save: str) -> Stages:
    """Every stage of the backward for the upstream ``dy``, from the oracle's own forward."""
    problem, forward = oracle.problem, oracle.rounded
    saved = {name: _rounded(forward[name], problem) for name in ("s", "u") if name in forward}
    with np.errstate(all="ignore"):
        again = hidden(problem, saved["s"], saved.get("u"))
    saved["h"] = _rounded(again, problem) if save == "preact" else forward["h"]
    return after(oracle, dy, saved)


def after(oracle: Oracle, dy: np.ndarray, taps: Mapping[str, np.ndarray]) -> Stages:
    """Each stage computed from what is in ``taps``: a runner's own "s", "u", "h" and, if they are there, "d_s" and
    "d_u": what its last step alone should have given."""
    problem, operands = oracle.problem, oracle.operands
    s, h = (np.asarray(taps[name], np.float64) for name in ("s", "h"))
    u = np.asarray(taps["u"], np.float64) if problem.gated else None
    dy = np.asarray(dy, np.float64)
    with np.errstate(all="ignore"):
        dh = operand(dy, problem) @ operands["w_down"].T
        slope = DERIVATIVES[problem.activation](s)
        found = {"d_s": _rounded(dh * slope if u is None else dh * u * slope, problem)}
        if u is not None:
            found["d_u"] = _rounded(dh * hidden(problem, s, None), problem)
        d_s = np.asarray(taps.get("d_s", found["d_s"]), np.float64)
        d_u = d_s if u is None else np.asarray(taps.get("d_u", found["d_u"]), np.float64)
        x = operands["x"]
        products = {
            "d_x": operand(d_u, problem) @ operands["w_up"].T,
            "d_w_up": x.T @ operand(d_u, problem),
            "d_w_down": operand(h, problem).T @ operand(dy, problem),
        }
        sums = {"d_b_up": d_u, "d_b_down": dy}
        if u is not None:
            products["d_x"] = products["d_x"] + operand(d_s, problem) @ operands["w_gate"].T
            products["d_w_gate"] = x.T @ operand(d_s, problem)
            sums["d_b_gate"] = d_s
        products |= {name: d.sum(axis=0) for name, d in sums.items() if name[2:] in operands}
    return found | {name: _rounded(value, problem) for name, value in products.items()}


def integers_are_exact(oracle: Oracle, dy: np.ndarray, gradients: Stages) -> bool:
    """Whether every order of summation gives the same bits, fused or not: partial sums fit a float32 accumulator, and
    what is rounded on the way to d_s and d_u is exact in the dtype."""
    problem, sizes = oracle.problem, {name: np.abs(value) for name, value in oracle.operands.items()}
    s = oracle.rounded["s"]
    size = np.abs(dy.astype(np.float64))
    up = np.abs(gradients.get("d_u", gradients["d_s"]))
    dh = dy.astype(np.float64) @ oracle.operands["w_down"].T
    slope = DERIVATIVES[problem.activation](s)
    between = [dh, dh * slope, dh * hidden(problem, s, None)]
    if problem.gated:
        between += [dh * oracle.rounded["u"], dh * oracle.rounded["u"] * slope]
    sums = [size @ sizes["w_down"].T, up @ sizes["w_up"].T, sizes["x"].T @ up, np.abs(oracle.rounded["h"]).T @ size]
    if problem.gated:
        at = np.abs(gradients["d_s"])
        sums[1] = sums[1] + at @ sizes["w_gate"].T
        sums += [sizes["x"].T @ at]
    exact = all((round_to(values, problem.dtype).astype(np.float64) == values).all() for values in between)
    return exact and all(values.max(initial=0.0) <= 2**24 for values in sums)


def _sigmoid_product(s: np.ndarray, z: np.ndarray, slope: np.ndarray | float) -> np.ndarray:
    """The derivative of ``s sigmoid(z(s))``; its second term is 0 where the sigmoid is flat, not 0 times infinity."""
    flat = special.expit(z) * special.expit(-z)
    return special.expit(z) + np.where(flat == 0.0, 0.0, s * flat * slope)


def _rounded(values: np.ndarray, problem: Problem) -> np.ndarray:
    return round_to(values, problem.dtype).astype(np.float64)

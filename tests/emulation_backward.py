"""The backward kernels' arithmetic in numpy, step by step in float32, and the ways it could be wrong."""

from collections.abc import Mapping

import numpy as np
from emulation import ACTIVATIONS, gemm

from parity.backward import DERIVATIVES
from parity.contract.problem import Problem
from parity.rounding import round_tf32, round_to

F = np.float32
# Each changes one thing.
MUTANTS = (
    "wrong_derivative",
    "derivative_elsewhere",
    "transposed_weight",
    "bias_partial_dropped",
    "gate_up_swapped",
    "gate_left_out_of_dx",
    "factor_left_out",
    "tail_row_dropped",
    "tail_column_dropped",
    "ds_not_rounded",
    "h_of_another_row",
    "coarse_accumulator",
)


def emulate_backward(
    problem: Problem,
    arrays: Mapping[str, np.ndarray],
    forward: Mapping[str, np.ndarray],
    save: str,
    mutant: str = "",
    *,
    tensor: bool = False,
) -> dict[str, np.ndarray]:
    """The gradient stages of a fused runner whose forward gave ``forward``; "dy" is among ``arrays``."""
    half = problem.dtype != "float32"
    given = {name: array.astype(F) for name, array in arrays.items()}
    dy, x = given["dy"], given["x"]

    def product(a: np.ndarray, b: np.ndarray, then: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
        if then is not None:
            # One chain: all of the first product, then all of the second.
            a, b = np.concatenate([a, then[0]], axis=1), np.concatenate([b, then[1]])
        if problem.precision == "tf32":
            a, b = round_tf32(a), round_tf32(b)
        return gemm(a, b, tensor=tensor, terms=16 if half else 8, mutant=mutant)

    def rounded(values: np.ndarray) -> np.ndarray:
        return round_to(values, problem.dtype)

    act = ACTIVATIONS[problem.activation]
    name = {"gelu_tanh": "gelu", "gelu": "gelu_tanh"}.get(problem.activation, "silu")
    name = name if mutant == "wrong_derivative" else problem.activation
    saved = {stage: rounded(forward[stage]) for stage in ("s", "u") if stage in forward}
    s = saved["s"].astype(F)
    u = saved["u"].astype(F) if problem.gated else None
    again = act(s) if u is None else act(s) * u
    saved["h"] = rounded(again) if save == "preact" else forward["h"]
    at = u if mutant == "derivative_elsewhere" and u is not None else s + F(0.01 * (mutant == "derivative_elsewhere"))
    with np.errstate(all="ignore"):
        slope = DERIVATIVES[name](at.astype(np.float64)).astype(F)
    w_down = given["w_down"]
    dh = product(dy, w_down if mutant == "transposed_weight" else w_down.T)
    if u is None:
        wide = dh * slope
        d_u = None
    else:
        wide = (dh if mutant == "factor_left_out" else dh * u) * slope
        d_u = rounded(dh * act(s))
    d_s = rounded(wide)
    if mutant == "gate_up_swapped" and d_u is not None:
        d_s, d_u = d_u, d_s
    found = {"d_s": d_s} | ({} if d_u is None else {"d_u": d_u})
    at_s = d_s.astype(F)
    if mutant == "ds_not_rounded":
        at_s = wide if half else round_to(wide, "bfloat16").astype(F)
    at_u = at_s if d_u is None else d_u.astype(F)
    rows = slice(0, -1) if mutant == "tail_row_dropped" else slice(None)
    h = saved["h"].astype(F)
    h = np.roll(h, 1, axis=0) if mutant == "h_of_another_row" else h
    found["d_x"] = rounded(
        product(at_u, given["w_up"].T)
        if u is None or mutant == "gate_left_out_of_dx"
        else product(at_u, given["w_up"].T, (at_s, given["w_gate"].T))
    )
    found["d_w_up"] = rounded(product(x[rows].T, at_u[rows]))
    found["d_w_down"] = rounded(product(h[rows].T, dy[rows]))
    if u is not None:
        found["d_w_gate"] = rounded(product(x[rows].T, at_s[rows]))
    for layer, d in (("up", at_u), ("gate", at_s), ("down", dy)):
        if f"b_{layer}" in given:
            kept = d[16:] if mutant == "bias_partial_dropped" else d
            ones = np.ones((1, len(kept)), F)
            total = gemm(ones, kept, tensor=tensor and half, terms=16, mutant=mutant)
            found[f"d_b_{layer}"] = rounded(total[0])
    if mutant == "tail_column_dropped":
        found["d_x"] = found["d_x"].copy()
        found["d_x"][:, -1] = 0
    return found | {f"saved_{stage}": values for stage, values in saved.items()}

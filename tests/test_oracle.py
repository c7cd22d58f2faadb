import math
from fractions import Fraction

import numpy as np
import pytest

from parity import stimulus
from parity.cases import SHAPES, build
from parity.contract.activations import ACTIVATIONS
from parity.oracle import FUNCTIONS, evaluate, evaluate_integers
from parity.rounding import round_tf32, round_to

EXACT = {
    "relu": lambda s: max(s, 0.0),
    "relu2": lambda s: max(s, 0.0) ** 2,
    "gelu": lambda s: 0.5 * s * math.erfc(-s / math.sqrt(2)),
    "gelu_tanh": lambda s: 0.5 * s * (1 + math.tanh(math.sqrt(2 / math.pi) * (s + 0.044715 * s**3))),
    "quick_gelu": lambda s: s / (1 + math.exp(-1.702 * s)),
    "silu": lambda s: s / (1 + math.exp(-s)),
    "sigmoid": lambda s: 1 / (1 + math.exp(-s)),
    "tanh": math.tanh,
    "identity": lambda s: s,
}


def test_every_activation_has_its_formula():
    assert set(FUNCTIONS) == set(ACTIVATIONS) == set(EXACT)


@pytest.mark.parametrize("name", EXACT)
def test_activation(name):
    s = np.linspace(-6, 6, 401)
    np.testing.assert_allclose(FUNCTIONS[name](s), [EXACT[name](float(v)) for v in s], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", EXACT)
def test_slope_bounds_the_derivative(name):
    s = np.linspace(-12, 12, 200_001)
    steepest = np.abs(np.diff(FUNCTIONS[name](s)) / np.diff(s))
    slope = ACTIVATIONS[name].slope
    allowed = slope if slope is not None else 2 * np.abs(s[1:]) + 1e-3
    assert (steepest <= np.asarray(allowed) * (1 + 1e-6) + 1e-9).all()


@pytest.mark.parametrize("gated", [False, True])
def test_against_fractions(gated):
    case = build("relu", (2, 3, 4, 2), gated=gated, biases="ugd" if gated else "ud")
    arrays = stimulus.generate(case.problem, "normal", 5)
    exact = {name: [[Fraction(float(v)) for v in row] for row in np.atleast_2d(a)] for name, a in arrays.items()}

    def linear(left, layer):
        w, b = exact[f"w_{layer}"], exact[f"b_{layer}"][0]
        return [[sum(row[k] * w[k][j] for k in range(len(w))) + b[j] for j in range(len(b))] for row in left]

    s = linear(exact["x"], "gate" if gated else "up")
    h = [[max(v, Fraction(0)) for v in row] for row in s]
    if gated:
        h = [[a * b for a, b in zip(p, q, strict=True)] for p, q in zip(h, linear(exact["x"], "up"), strict=True)]
    y = linear(h, "down")
    pure = evaluate(case.problem, arrays).pure
    for stage, values in (("s", s), ("h", h), ("y", y)):
        np.testing.assert_allclose(pure[stage], np.array(values, dtype=float), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_h_and_y_are_rounded_once_each(dtype):
    case = build("gelu_tanh", SHAPES["ragged"], dtype, biases="ud")
    arrays = stimulus.generate(case.problem, "normal", 5)
    oracle = evaluate(case.problem, arrays)
    h = round_to(oracle.pure["h"], case.problem.dtype).astype(np.float64)
    assert (oracle.rounded["h"] == h).all()
    y = h @ arrays["w_down"].astype(np.float64) + arrays["b_down"].astype(np.float64)
    assert (oracle.rounded["y"] == round_to(y, case.problem.dtype).astype(np.float64)).all()
    assert (oracle.pure["y"] != oracle.rounded["y"]).any()


def test_tf32_rounds_both_inputs_of_both_gemms():
    case = build("identity", SHAPES["ragged"], "tf32", biases="ud")
    arrays = stimulus.generate(case.problem, "normal", 5)
    oracle = evaluate(case.problem, arrays)
    cut = {name: round_tf32(array).astype(np.float64) for name, array in arrays.items()}
    np.testing.assert_array_equal(oracle.pure["s"], cut["x"] @ cut["w_up"] + arrays["b_up"])
    hidden = round_tf32(oracle.rounded["h"].astype(np.float32)).astype(np.float64)
    np.testing.assert_array_equal(oracle.hidden, hidden)
    y = (hidden @ cut["w_down"] + arrays["b_down"]).astype(np.float32)
    np.testing.assert_array_equal(oracle.rounded["y"], y)


def test_after_starts_from_the_taps():
    case = build("silu", SHAPES["ragged"], "fp16", gated=True, biases="ugd")
    oracle = evaluate(case.problem, stimulus.generate(case.problem, "normal", 5))
    taps = {**oracle.rounded, "s": oracle.rounded["s"] + 1.0}
    after = oracle.after(taps)
    assert (after["y"] == oracle.rounded["y"]).all()
    wanted = (taps["s"] / (1 + np.exp(-taps["s"]))) * taps["u"]
    np.testing.assert_allclose(after["h"], wanted, rtol=2.0**-10, atol=1e-7)


def test_overflow_is_infinite_as_in_the_dtype():
    case = build("relu", (1, 1, 1, 1), "fp16")
    arrays = {name: np.full((1, 1), 256, np.float16) for name in ("x", "w_up", "w_down")}
    oracle = evaluate(case.problem, arrays)
    assert np.isinf(oracle.rounded["h"]).all()
    assert oracle.pure["y"] == 256.0**3


def test_integers_need_an_activation_that_keeps_them():
    case = build("silu", SHAPES["square"])
    with pytest.raises(ValueError, match="silu does not keep integers; use one of relu, relu2, identity"):
        evaluate_integers(case.problem, stimulus.generate(case.problem, "integer", 1))

"""The table: its numbers against the functions it speaks of, in float64."""

import numpy as np
import pytest
from activation_points import POINTS, exact

from parity.contract import activations as contract
from parity.oracle import FUNCTIONS

S = np.concatenate([np.linspace(-30.0, 30.0, 600001), np.linspace(-1.0, 1.0, 200001)])


def test_every_activation_has_a_formula_in_the_oracle():
    assert list(contract.ACTIVATIONS) == list(FUNCTIONS)


@pytest.mark.parametrize("name", contract.ACTIVATIONS)
def test_slope_bounds_the_derivative_and_not_by_much(name):
    step = 2.0**-20
    slopes = np.abs(FUNCTIONS[name](S + step) - FUNCTIONS[name](S - step)) / (2 * step)
    slope = contract.ACTIVATIONS[name].slope
    limit = 2.0 * np.abs(S) + step if slope is None else slope
    assert (slopes <= limit + 2.0**-24).all()
    # A bound much above the truth would let a wrong kernel pass.
    assert slope is None or slopes.max() > 0.98 * slope


def test_gelu_polynomial_is_as_good_as_it_says():
    a = np.abs(POINTS[np.abs(POINTS) <= 13.1].astype(np.float64))
    t = 1.0 / (1.0 + contract.GELU_T * a)
    q = t * np.polynomial.polynomial.polyval(t, contract.GELU_P) * np.exp2(a * a * contract.GELU_EXPONENT)
    truth = FUNCTIONS["gelu"](-a[a > 0]) / -a[a > 0]
    assert np.max(np.abs(q[a > 0] / truth - 1.0)) < 1.4e-7


def test_tanh_polynomial_is_as_good_as_it_says():
    s = np.linspace(1e-6, contract.TANH_CUT, 100001)
    z = s * s
    spelled = s + s * z * np.polynomial.polynomial.polyval(z, contract.TANH_Q)
    assert np.max(np.abs(spelled / np.tanh(s) - 1.0)) < 4.5e-9


def test_exponents_spell_the_formulas():
    s = POINTS[np.abs(POINTS) < 12.0].astype(np.float64)
    spelled = {
        "gelu_tanh": s / (1 + np.exp2(s * (contract.GELU_TANH_EXPONENT + contract.GELU_TANH_EXPONENT_CUBIC * (s * s)))),
        "quick_gelu": s / (1 + np.exp2(s * contract.QUICK_GELU_EXPONENT)),
        "silu": s / (1 + np.exp2(s * contract.SILU_EXPONENT)),
        "sigmoid": 1 / (1 + np.exp2(s * contract.SILU_EXPONENT)),
    }
    for name, values in spelled.items():
        assert np.allclose(values, exact(name, s), rtol=2.0**-40, atol=0.0), name

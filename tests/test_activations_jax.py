"""The activations as Pallas takes them and their derivatives, alone: against float64 over the whole range, and at the
edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from activation_points import EDGES, POINTS, SLOPE_EDGES, allowed, allowed_slope, exact, exact_slope
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from jaxfused.activations import ACTIVATIONS, DERIVATIVES
from jaxfused.reference import ACTIVATIONS as REFERENCE
from jaxfused.vendor import ACTIVATIONS as VENDOR
from jaxfused.vendor import spelled
from parity.contract.activations import ACTIVATIONS as CONTRACT
from parity.contract.problem import Device
from parity.contract.vendor import Order

pytestmark = pytest.mark.usefixtures("strict_jax")


def evaluate(name: str, s: np.ndarray, table=ACTIVATIONS) -> np.ndarray:
    size = 1 << (s.size - 1).bit_length()

    def activation_kernel(s_ref, y_ref):
        y_ref[...] = table[name](s_ref[...])

    call = pl.pallas_call(
        activation_kernel,
        out_shape=jax.ShapeDtypeStruct((size,), jnp.float32),
        interpret=jax.default_backend() != "gpu",
        compiler_params=plt.CompilerParams(num_warps=4, num_stages=2),
    )
    return np.asarray(call(jnp.asarray(np.resize(s, size))))[: s.size]


def test_table_is_the_contracts():
    assert list(ACTIVATIONS) == list(DERIVATIVES) == list(REFERENCE) == list(VENDOR) == list(CONTRACT)


@pytest.mark.parametrize("name", CONTRACT)
def test_within_the_contracts_rounding(name):
    assert (np.abs(evaluate(name, POINTS) - exact(name, POINTS)) <= allowed(name, POINTS)).all()


@pytest.mark.parametrize("name", CONTRACT)
def test_the_vendors_spelling_is_the_same_function(name):
    s = POINTS[np.abs(POINTS) < 2.0**20]
    device = Device(kind="gpu" if jax.default_backend() == "gpu" else "interpreter")
    found = evaluate(name, s, {name: spelled(name, Order.VENDOR, jnp.float32, device)})
    assert (np.abs(found - exact(name, s)) <= allowed(name, s)).all()


@pytest.mark.parametrize("name", CONTRACT)
def test_others_are_outside_it(name):
    for other in set(CONTRACT) - {name}:
        assert (np.abs(evaluate(other, POINTS) - exact(name, POINTS)) > allowed(name, POINTS)).any(), other


@pytest.mark.parametrize("name", CONTRACT)
def test_edges(name):
    for s, value in EDGES[name].items():
        found = evaluate(name, np.full(3, s, np.float32))
        assert np.array_equal(found, np.full(3, value, np.float32), equal_nan=True), (s, found)


@pytest.mark.parametrize("name", CONTRACT)
def test_reference_is_the_same_function(name):
    s = POINTS[np.abs(POINTS) < 2.0**60]
    with jax.enable_x64(True):
        value = np.asarray(REFERENCE[name](jnp.asarray(s, jnp.float64)))
    assert np.allclose(value, exact(name, s), rtol=2.0**-45, atol=2.0**-45)


@pytest.mark.parametrize("name", CONTRACT)
def test_slope_is_within_the_contracts_rounding(name):
    found = evaluate(name, POINTS, DERIVATIVES)
    assert (np.abs(found - exact_slope(name, POINTS)) <= allowed_slope(name, POINTS)).all()


@pytest.mark.parametrize("name", CONTRACT)
def test_other_slopes_are_outside_it(name):
    for other in set(CONTRACT) - {name}:
        found = evaluate(other, POINTS, DERIVATIVES)
        assert (np.abs(found - exact_slope(name, POINTS)) > allowed_slope(name, POINTS)).any(), other


@pytest.mark.parametrize("name", CONTRACT)
def test_slope_at_edges(name):
    for s, slope in SLOPE_EDGES[name].items():
        found = evaluate(name, np.full(3, s, np.float32), DERIVATIVES)
        assert np.array_equal(found, np.full(3, slope, np.float32), equal_nan=True), (s, found)


@pytest.mark.parametrize("name", CONTRACT)
def test_slope_is_the_references(name):
    """At 0, where that of relu is a choice, too."""
    s = POINTS[np.abs(POINTS) < 2.0**60]
    with jax.enable_x64(True):
        slope = np.asarray(jax.vmap(jax.grad(REFERENCE[name]))(jnp.asarray(s, jnp.float64)))
    want = exact_slope(name, s)
    # Automatic differentiation forms 1 - tanh^2, which cancels, and multiplies it with s; past 16 it is zero.
    assert (np.abs(slope - want) <= 2.0**-45 * (np.clip(np.abs(s), 1.0, 16.0) + np.abs(want))).all()

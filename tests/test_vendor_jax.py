"""Plans of the vendor's order through the Pallas kernels: roundings, spelling, gradients, transforms."""

import jax
import numpy as np
import pytest
from adapter_jax import gradients, operands, run
from vendor_model import CASES, PLANS, check, drawn_as

from jaxfused import functional
from parity.contract.saved import SAVES

pytestmark = pytest.mark.usefixtures("strict_jax")


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("activation", "gated", "dtype"), CASES)
def test_stages_are_rounded_and_spelled_as_eagers(activation, gated, dtype, plan):
    check(run, drawn_as(activation, gated, dtype, PLANS[plan]))


@pytest.mark.parametrize("gated", [False, True])
def test_gradients_do_not_hang_on_what_is_kept(gated):
    """What is kept is what the forward used: s and u are rounded there, too."""
    drawn = drawn_as("quick_gelu", gated, "float16", PLANS["tiled"])
    found = [gradients(drawn, save) for save in SAVES]
    for stage, want in found[0].items():
        assert np.isfinite(want).all()
        assert all(np.array_equal(other[stage], want) for other in found[1:] if stage in other), stage


def test_grad_and_vmap_run_the_same_plan():
    drawn = drawn_as("silu", True, "float16", PLANS["tiled"])
    given = operands(drawn.arrays)

    def mlp(x):
        return functional.fused_mlp(**given | {"x": x}, **drawn.options)

    want = run(drawn)["y"]
    y, pull = jax.vjp(mlp, given["x"])
    assert np.array_equal(y, want)
    assert np.isfinite(pull(y)[0]).all()
    assert np.array_equal(jax.vmap(mlp)(given["x"][None])[0], want)


def test_explain_names_the_order():
    drawn = drawn_as("silu", True, "float16", PLANS["tiled"])
    text = str(functional.explain(**operands(drawn.arrays), **drawn.options))
    assert "tiled/portable in the vendor's order" in text
    assert "split_k (2, 1)" in text

"""The Pallas kernels: every option crossed with every other, judged stage by stage."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapter_jax import run
from yardstick import PLANS, SMALL, draw, draw_row, mutants, rows

from jaxfused import functional, launch_tiled_portable
from jaxfused.kernels.gemm import round_tf32
from parity.contract.plan import Plan
from parity.oracle import evaluate_integers

pytestmark = pytest.mark.usefixtures("strict_jax")


@pytest.mark.parametrize("row", rows())
def test_stages_are_within_bounds(row):
    drawn = draw_row(row)
    found = run(drawn)
    assert set(found) == set(drawn.oracle.rounded)
    drawn.check(found)


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
@pytest.mark.parametrize(
    ("activation", "gated", "biases"), [("gelu", False, "ud"), ("gelu_tanh", True, "ugd"), ("relu", True, "d")]
)
def test_wrong_kernels_are_rejected(activation, gated, biases, precision):
    drawn = draw((37, 53, 67, 31), activation=activation, gated=gated, biases=biases, precision=precision)
    drawn.check(run(drawn))
    for name, mutant in mutants(drawn).items():
        assert not drawn.accepts(run(mutant)), name


def test_hidden_layer_that_is_not_rounded_is_rejected():
    drawn = draw((37, 53, 67, 31), dtype="float16", activation="gelu", biases="ud")
    found = run(drawn)
    wide = {name: array.astype(np.float32) for name, array in drawn.arrays.items()}
    y = run(replace(drawn, arrays=wide))["y"].astype(np.float16)
    drawn.check(found)
    assert not drawn.accepts(found | {"y": y})


@pytest.mark.parametrize("plan", ["auto", "split4-3"])
@pytest.mark.parametrize("dtype", ["float32", "float16", pytest.param("bfloat16", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ["relu", "identity", "relu2"])
def test_integers_are_exact(activation, gated, dtype, plan):
    biases = "ugd" if gated else "ud"
    drawn = draw((19, 33, 21, 18), kind="integer", activation=activation, gated=gated, dtype=dtype, biases=biases,
                 plan=PLANS[plan])  # fmt: skip
    try:
        whole = evaluate_integers(drawn.problem, drawn.arrays)
    except ValueError:
        assert dtype == "bfloat16"
        pytest.skip("sums past bfloat16's exact integers")
    found = run(drawn)
    assert all(np.array_equal(found[stage], whole[stage]) for stage in whole)


# One number every 64 terms, where a chain may begin: its sum depends on which are added first, and every partial sum
# is known.
PARTS = (2.0**24, 1.0, 1.0, 1.0, 1.0, -(2.0**24))


@pytest.mark.parametrize(("split_k", "total"), [(1, 0.0), (2, 2.0), (3, 3.0), (4, 3.0), (6, 0.0), (9, 0.0)])
def test_chains_are_as_long_as_the_plan_says_and_summed_upwards(split_k, total):
    x = jnp.zeros((1, 64 * len(PARTS))).at[0, ::64].set(jnp.array(PARTS))
    w_up, w_down = jnp.ones((x.shape[1], 1)), jnp.ones((1, 1))
    plan = Plan(up=SMALL, down=SMALL, split_k=(split_k, 1))
    y = functional.fused_mlp(x, w_up, w_down, activation="identity", plan=plan)
    assert y.item() == total
    # The second GEMM has the same chains.
    plan = replace(plan, split_k=(1, split_k))
    y = functional.fused_mlp(jnp.ones((1, 1)), x, w_up, activation="identity", plan=plan)
    assert y.item() == total


def test_bias_is_added_after_the_chain():
    x = jnp.array([[2.0**24, -(2.0**24)]])
    one = jnp.ones((1, 1))
    y = functional.fused_mlp(x, jnp.ones((2, 1)), one, b_up=jnp.ones(1), activation="identity", plan=Plan())
    assert y.item() == 1.0


@pytest.mark.parametrize("gated", [False, True])
def test_two_launches_of_the_kernel_and_no_other(gated):
    drawn = draw((37, 53, 67, 31), gated=gated, biases="ud", plan=PLANS["small"])
    call = jax.make_jaxpr(lambda arrays: functional.fused_mlp(**arrays, **drawn.options))(dict(drawn.arrays))
    kernels = [equation for equation in equations(call) if equation.primitive.name == "pallas_call"]
    grids = [kernel.params["grid_mapping"].grid for kernel in kernels]
    # 3 x 5 tiles of 16 x 16, 2 x 2 of 32 x 16.
    assert grids == [(15,), (4,)]
    assert not any(equation.primitive.name == "dot_general" for equation in equations(call))


def test_unwritten_output_is_nan(monkeypatch):
    """Pallas' interpreter hands out NaN, so that an element no kernel wrote is seen in every test here."""
    if jax.default_backend() == "gpu":
        pytest.skip("compiled kernels write into memory as it is")
    monkeypatch.setattr(launch_tiled_portable, "linear_fwd_kernel", lambda *refs, **options: None)
    drawn = draw((5, 6, 11, 8))
    assert all(np.isnan(stage).all() for stage in run(drawn).values())


def test_nan_stays_in_its_row_and_is_not_dropped():
    drawn = draw((37, 53, 67, 31), activation="relu", biases="ud")
    clean = run(drawn)
    x = drawn.arrays["x"].copy()
    x[11, 3] = np.nan
    found = run(replace(drawn, arrays=dict(drawn.arrays) | {"x": x}))
    others = np.arange(37) != 11
    for stage, values in found.items():
        assert np.isnan(values[11]).all()
        assert np.array_equal(values[others], clean[stage][others])


def test_repeated_run_gives_the_same_bits():
    drawn = draw((37, 53, 67, 31), activation="silu", gated=True, plan=PLANS["split4-3"])
    first, second = run(drawn), run(drawn)
    assert all(np.array_equal(first[stage], second[stage]) for stage in first)


# float32 bits and their nearest with 10 fraction bits: below half, ties (away from zero), NaN, infinity, overflow,
# a subnormal.
NEAREST_TF32 = {
    0x3F800FFF: 0x3F800000, 0x3F801000: 0x3F802000, 0x3F803000: 0x3F804000, 0xBF801000: 0xBF802000,
    0x7FC00001: 0x7FC00001, 0x7F800000: 0x7F800000, 0x7F7FFFFF: 0x7F800000, 0x00001000: 0x00002000,
}  # fmt: skip


def test_tf32_rounds_ties_away_and_keeps_nan():
    bits = np.array(list(NEAREST_TF32), "u4")
    want = np.array(list(NEAREST_TF32.values()), "u4")
    found = np.asarray(jax.jit(round_tf32)(jnp.asarray(bits.view("f4"))))
    assert np.array_equal(found.view("u4"), want)


def equations(closed):
    """Every equation of a jaxpr and of those it calls, but not of the kernels' own."""
    for equation in closed.eqns:
        yield equation
        if equation.primitive.name != "pallas_call":
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)

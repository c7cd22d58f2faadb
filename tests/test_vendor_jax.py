"""Plans of the vendor's order through the Pallas kernels: roundings, spelling, gradients, transforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapter_jax import gradients, operands, run
from flax import nnx
from vendor_model import CASES, PLANS, check, drawn_as

from jaxfused import FusedMLP, functional, linen, vendor
from jaxfused.device import device_of
from jaxfused.kernels import epilogue
from parity.contract import choice
from parity.contract.plan import Plan
from parity.contract.saved import SAVES
from parity.contract.vendor import Order, Record, layer

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


def test_vmap_keeps_the_chains_of_a_row(monkeypatch):
    """As recovered for one row, however many it is folded with."""
    drawn = drawn_as("silu", False, "float16", Plan(order=Order.VENDOR))
    given = operands(drawn.arrays)
    p = drawn.problem
    layers = (
        layer(p.dtype, p.in_features, p.hidden_features, True),
        layer(p.dtype, p.hidden_features, p.out_features, True),
    )
    record = Record(vendor="torch 9", chains={key: {1: 2, 4: 1} for key in layers})
    known = {device_of(given["x"]).name: record}
    monkeypatch.setattr("parity.contract.vendor.records", lambda: known)
    monkeypatch.setattr("parity.contract.choice.records", lambda: known)
    choice._choose.cache_clear()

    def mlp(x):
        return functional.fused_mlp(**given | {"x": x[None]}, **drawn.options)[0]

    x = given["x"]
    for rows in (3, 4):
        one_by_one = np.stack([mlp(row) for row in x[:rows]])
        assert np.array_equal(jax.vmap(mlp)(x[:rows]), one_by_one)
    choice._choose.cache_clear()


def test_explain_names_the_order():
    drawn = drawn_as("silu", True, "float16", PLANS["tiled"])
    text = str(functional.explain(**operands(drawn.arrays), **drawn.options))
    assert "tiled/portable in the vendor's order" in text
    assert "split_k (2, 1)" in text


def test_a_module_is_forced_by_name():
    plan = PLANS["tiled"]
    options = {"activation": "silu", "gated": True, "dtype": jnp.float16, "param_dtype": jnp.float16, "plan": plan}
    module = FusedMLP(70, 96, 24, **options, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (5, 70), jnp.float16)
    children = {"up": module.up_proj, "gate": module.gate_proj, "down": module.down_proj}
    given = {f"w_{name}": child.kernel[...] for name, child in children.items()}
    given |= {f"b_{name}": child.bias[...] for name, child in children.items()}
    want = functional.fused_mlp(x, **given, activation="silu", plan=plan)
    assert np.array_equal(module(x), want)
    assert np.array_equal(nnx.jit(lambda module, x: module(x))(module, x), want)
    params = {
        f"{name}_proj": {"kernel": given[f"w_{name}"], "bias": given[f"b_{name}"]} for name in children
    }  # fmt: skip
    assert np.array_equal(linen.FusedMLP(70, 96, 24, **options).apply({"params": params}, x), want)
    with pytest.raises(ValueError, match="plan is 'vendor', must be a Plan"):
        FusedMLP(70, 96, plan="vendor", rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("room", "activation"), [(epilogue, "relu"), (epilogue, "silu"), (vendor, "quick_gelu")])
def test_a_rounding_that_is_left_out_is_seen(room, activation, monkeypatch):
    drawn = drawn_as(activation, True, "float16", PLANS["tiled"])
    check(run, drawn)
    monkeypatch.setattr(room, "rounded", lambda t, dtype: t)
    # What was traced before is no part of what jit caches by.
    jax.clear_caches()
    with pytest.raises(AssertionError):
        check(run, drawn)
    monkeypatch.undo()
    jax.clear_caches()

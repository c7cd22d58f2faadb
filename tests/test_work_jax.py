"""What a launch of tiled/hopper asks tiles for is what the plan says of it: no kernel is run."""

from dataclasses import replace
from functools import partial

import jax
import pytest
from asked_jax import launches

from jaxfused import launch
from parity.contract.choice import choose
from parity.contract.hopper_tiles import backward_of, forward_of
from parity.contract.plan import Plan
from parity.contract.problem import Device, Problem, smem_of

H100 = Device(
    kind="gpu", name="a made-up H100", sm_count=132, smem_bytes=smem_of((9, 0)), capability=(9, 0), library="xla"
)  # fmt: skip
SIZES = {"m": 40, "in_features": 16, "hidden_features": 24, "out_features": 8}


@pytest.fixture
def asked(monkeypatch):
    return launches(monkeypatch)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ["identity", "silu"])
def test_launches_of_an_mlp(asked, activation, gated):
    problem = Problem(**SIZES, activation=activation, gated=gated, dtype="bfloat16")
    m, k, h, n = SIZES.values()
    plan = choose(problem, H100, Plan(strategy="tiled", backend="hopper")).plan

    def of(*shape):
        return jax.ShapeDtypeStruct(shape, "bfloat16")

    x, w_up, w_down, w_gate = of(m, k), of(k, h), of(h, n), of(k, h) if gated else None
    options = {"activation": activation, "precision": "ieee"}
    forward = partial(launch.forward, plan, H100, b_up=None, b_gate=None, b_down=None, **options)
    jax.eval_shape(lambda x, up, down, gate: forward(x, up, down, w_gate=gate), x, w_up, w_down, w_gate)
    assert [work for work, _ in asked] == list(forward_of(problem))
    assert [tiling.tiles for _, tiling in asked] == [plan.up, plan.down]
    asked.clear()
    saved = {name: of(m, h) for name in ("s", *("u",) * gated)}
    needs = ("x", "w_up", "w_down", *("w_gate",) * gated)
    backward = partial(launch.tiled_backward, plan, H100, needs=needs, **options)
    jax.eval_shape(
        lambda dy, x, up, down, gate, saved: backward(dy, x, up, down, w_gate=gate, saved=saved),
        of(m, n), x, w_up, w_down, w_gate, saved,
    )  # fmt: skip
    assert {work for work, _ in asked} == set(backward_of(problem, "xla"))
    # As torch's, but that a weight lies the other way around.
    turned = [
        w if w.kind != "weight_bwd" else replace(w, rows=w.outer, outer=w.rows) for w in backward_of(problem, "torch")
    ]
    assert list(backward_of(problem, "xla")) == turned

"""What a launch of tiled/hopper looks its tiles up by is what the plan and the tuner say of it: no kernel is run."""

import pytest
import torch
from asked_torch import launches

from parity.contract.choice import choose
from parity.contract.hopper_tiles import backward_of, forward_of
from parity.contract.plan import Plan
from parity.contract.problem import Device, Problem, smem_of
from torchfused import launch, launch_tiled_hopper

H100 = Device(kind="gpu", name="a made-up H100", sm_count=132, smem_bytes=smem_of((9, 0)), capability=(9, 0))
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
        return torch.zeros(shape, dtype=torch.bfloat16)

    x, w_up, w_down, w_gate = of(m, k), of(h, k), of(n, h), of(h, k) if gated else None
    options = {"activation": activation, "precision": "ieee"}
    launch.forward(plan, H100, x, w_up, w_down, w_gate=w_gate, b_up=None, b_gate=None, b_down=None, **options)
    assert [work for work, _ in asked] == list(forward_of(problem))
    assert [tiling.tiles for _, tiling in asked] == [plan.up, plan.down]
    asked.clear()
    saved = {name: of(m, h) for name in ("s", *("u",) * gated)}
    needs = ("x", "w_up", "w_down", *("w_gate",) * gated)
    launch.tiled_backward(plan, H100, of(m, n), x, w_up, w_down, w_gate=w_gate, saved=saved, needs=needs, **options)
    listed = backward_of(problem, "torch")
    assert {work for work, _ in asked} == {work for work in listed if (work.rows, work.outer) not in ((h, n), (k, h))}


UPSTREAMS = {
    "packed": lambda m, n: torch.zeros(m, n, dtype=torch.bfloat16),
    "one number": lambda m, n: torch.zeros(1, 1, dtype=torch.bfloat16).expand(m, n),
    "one a row": lambda m, n: torch.zeros(m, 1, dtype=torch.bfloat16).expand(m, n),
    "one a column": lambda m, n: torch.zeros(1, n, dtype=torch.bfloat16).expand(m, n),
    "turned": lambda m, n: torch.zeros(n, m, dtype=torch.bfloat16).t(),
}


@pytest.mark.parametrize("m", [1, 301])
@pytest.mark.parametrize("upstream", UPSTREAMS.values(), ids=UPSTREAMS)
def test_any_upstream_gradient_is_read_by_rows(upstream, m, monkeypatch):
    """Whatever the number of rows: a weight's gradient takes it as K first, and no other layout would be TMA's."""
    found = []
    monkeypatch.setattr(
        launch_tiled_hopper, "_launcher", lambda *settled: lambda *given: found.append((settled, given))
    )
    k, h, n = 16, 24, 8

    def of(*shape):
        return torch.zeros(shape, dtype=torch.bfloat16)

    options = {"activation": "silu", "precision": "ieee", "w_gate": None, "needs": ("w_down",)}
    plan = Plan(strategy="tiled", backend="hopper")
    saved = {"s": of(m, h), "h": of(m, h)}
    launch.tiled_backward(plan, H100, upstream(m, n), of(m, k), of(h, k), of(n, h), saved=saved, **options)
    ((settled, (_, maps)),) = found
    assert settled[2].kind == "weight_bwd"
    assert ("A_ROWS", False) in settled[-1]
    assert tuple(maps[0].base.shape) == (m, n)
    assert tuple(maps[0].base.stride()) == (n, 1)

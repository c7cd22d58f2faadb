"""What a launch of tiled/hopper looks its tiles up by is what the plan and the tuner say of it: no kernel is run."""

import pytest
import torch

from bench import tuner_torch
from bench.tune import orders
from bench.workloads import Case, suite
from parity.contract.hopper_tiles import backward_of, forward_of
from parity.contract.plan import Plan, choose
from parity.contract.problem import Device, Problem, smem_of
from torchfused import launch, launch_tiled_hopper

H100 = Device(kind="gpu", name="a made-up H100", sm_count=132, smem_bytes=smem_of((9, 0)), capability=(9, 0))
SIZES = {"m": 40, "in_features": 16, "hidden_features": 24, "out_features": 8}


@pytest.fixture
def asked(monkeypatch):
    """(work, tiling) of every launch."""
    found = []
    monkeypatch.setattr(
        launch_tiled_hopper, "_launch", lambda kernel, device, work, tiling, *_, **__: found.append((work, tiling))
    )
    return found


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
    listed = backward_of(problem)
    assert {work for work, _ in asked} == {work for work in listed if (work.rows, work.outer) not in ((h, n), (k, h))}


def test_the_tuner_launches_what_it_is_told(asked, monkeypatch):
    monkeypatch.setattr(tuner_torch, "device_of", lambda t: H100)
    cases = [Case(workload=name, m=40, mode="forward_backward") for name in ("tiny", "tiny_gated")]
    for order in orders(cases, H100):
        chain = [tuner_torch.operands(order, torch.device("cpu")) for _ in range(2)]
        assert tuner_torch.size_of(chain[0]) >= 2 * (order.work.rows + order.work.outer) * order.work.inner
        for tiling in order.tilings:
            found = tuner_torch.launch(order, tiling, chain)
            assert asked == [(order.work, tiling)] * 2
            assert {tuple(t.shape) for t in found} == {(order.work.rows, order.work.outer)}
            asked.clear()


def test_a_binary_is_compiled_once():
    listed = orders(suite("tune"), H100)
    found = tuner_torch.variants(listed)
    assert len(found) < sum(len(order.tilings) for order in listed) / 20
    assert {(o.work.kind, o.work.gated, o.activation, o.biases, t.tiles) for o in listed for t in o.tilings} == {
        (o.work.kind, o.work.gated, o.activation, o.biases, t.tiles) for o in found for t in o.tilings
    }

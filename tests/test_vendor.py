"""`parity vendor`: what it asks, what is red, what it keeps; and its real workers, where there is no GPU."""

import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from parity.cli import app
from parity.contract import vendor as contract
from parity.contract.activations import ACTIVATIONS
from parity.contract.plan import Plan, Strategy
from parity.contract.problem import Problem
from parity.contract.tiles import chain_length
from parity.contract.vendor import Order, Record
from parity.drift_table import print_vendor
from parity.process import Spec, Worker, specs
from parity.vendor import Lanes, Recovered, described, layers, merged, mlps, problems, recover, replay
from parity.vendor_worker import Layer, Mlp, cuts, read

HERE = Path(__file__).parent
WORKLOADS = HERE.parent / "bench/workloads.json"
MLP = Problem(m=16, in_features=4096, hidden_features=8192, out_features=512, activation="silu", dtype="bfloat16")
LAYER = Layer(dtype="bfloat16", inner=8192, outer=512, bias=True, rows=(1, 5))


def lanes(fault="", count=2) -> Lanes:
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    environment = {"PARITY_FAULT": fault, "PYTHONPATH": path}
    return Lanes([
        [
            Worker(Spec(name=name, module="vendor_fake_worker", arguments=(name,), environment=environment))
            for name in ("jax", "torch")
        ]
        for _ in range(count)
    ])  # fmt: skip


def test_what_is_run_is_every_workload_and_activation():
    asked = problems(WORKLOADS)
    named = json.loads(WORKLOADS.read_text())["workloads"]
    for w in named.values():
        sizes = (w["in"], w["hidden"], w["out"], w["activation"], w["gated"])
        rows = {
            p.m
            for p in asked
            if (p.in_features, p.hidden_features, p.out_features, p.activation, p.gated) == sizes
            and p.bias_up == p.bias_down == w["biases"]
        }
        assert {1, 64, 1024} <= rows
    forms = {(p.activation, p.gated, p.dtype) for p in asked}
    assert {(a, g, d) for a in ACTIVATIONS for g in (False, True) for d in ("bfloat16", "float16")} <= forms
    assert {p.m for p in asked if p.gated} == {p.m for p in asked if not p.gated} == {1, 16, 64, 256, 1024, 4096}
    assert "float32" in {p.dtype for p in asked}
    # Each of their products is asked for.
    known = {(contract.layer(one.dtype, one.inner, one.outer, one.bias), m) for one in layers(asked) for m in one.rows}
    for problem in asked:
        assert {(name, problem.m) for names in contract.products(problem) for name in names} <= known


def test_questions_travel():
    for question in (LAYER, Mlp(problem=MLP, plan=Plan(order=Order.VENDOR, split_k=(1, 2)))):
        assert read(question.to_json()) == question


@pytest.mark.parametrize("inner", [1, 64, 100, 4096, 6400, 14336])
@pytest.mark.parametrize("chains", [1, 2, 3, 7])
def test_a_sum_is_cut_into_its_terms(inner, chains):
    ranges = cuts(inner, chains)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == inner
    assert all(stop == start for (_, stop), (start, _) in pairwise(ranges))
    assert all(start % 64 == 0 and stop > start for start, stop in ranges)
    assert all(stop - start == chain_length(inner, chains) for start, stop in ranges[:-1])


def test_orders_are_recovered_and_an_mlp_is_promised_where_both_are():
    with lanes() as workers:
        found = list(recover(workers, [LAYER, replace(LAYER, inner=64)]))
        assert workers.greetings["torch"]["vendor"] == "torch 9"
    assert [(one.layer, one.m, one.chains) for one in found] == [
        ("bfloat16 8192-512 bias", 1, 2),
        ("bfloat16 8192-512 bias", 5, None),
        ("bfloat16 64-512 bias", 1, 1),
        ("bfloat16 64-512 bias", 5, None),
    ]
    known = {("bfloat16 4096-8192", 16): 1, ("bfloat16 8192-512", 16): 2}
    tiled, decode = mlps([MLP], known)
    assert tiled == (Mlp(problem=MLP, plan=Plan(order=Order.VENDOR, split_k=(1, 2))), True)
    assert decode[0].plan == replace(tiled[0].plan, strategy=Strategy.DECODE)
    # Three chains at once are none of decode's; an order that is not known is not promised.
    (only,) = mlps([MLP], known | {("bfloat16 8192-512", 16): 3})
    assert only[0].plan.split_k == (1, 3)
    assert not any(promised for _, promised in mlps([MLP], {("bfloat16 4096-8192", 16): 1}))


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("torchfused", ""),
        ("jaxfused", ""),
        ("operands jax", "the workers drew different operands"),
        ("raise jax", "jax: ValueError: no"),
        ("raise torch", "torch: ValueError: no"),
        ("crash", "worker was ended by SIGABRT"),
    ],
)
def test_a_bit_that_differs_is_red_where_it_is_promised(fault, why):
    plan = Plan(order=Order.VENDOR, split_k=1)
    asked = [(Mlp(problem=MLP, plan=plan), promised) for promised in (True, False)]
    with lanes(count=1) as workers:
        assert not any(one.red for one in replay(workers, asked))
    with lanes(fault, count=1) as workers:
        promised, other = replay(workers, asked)
    assert promised.red
    assert not other.red
    assert why in promised.why
    assert promised.equal == ({} if why else {name: name != fault for name in ("torchfused", "jaxfused")})
    if fault == "torchfused":
        assert (promised.differ, promised.at) == ({"y": 2, "s": 0, "h": 1}, {"y": [0, 1]})


def test_what_is_printed_says_what_is_red(capsys):
    found = [Recovered(layer="bfloat16 8-8", m=5), Recovered(layer="bfloat16 8-8", m=1, chains=1)]
    with lanes("torchfused", count=1) as workers:
        replays = list(replay(workers, [(Mlp(problem=MLP, plan=Plan(order=Order.VENDOR, split_k=1)), True)]))
    print_vendor(found, replays, Console(width=120))
    text = capsys.readouterr().out
    assert "1 of 2 orders recovered" in text
    assert "bfloat16 8-8 at 5 rows: in no order that was tried" in text
    assert "y 2, h 1" in text
    assert "0 of 1 promised MLPs have every bit of torch's eager, in both twins" in text
    assert json.loads(json.dumps(described(found, replays)))["cases"][0]["red"]


def test_a_record_keeps_what_was_not_asked_again(monkeypatch):
    name = "bfloat16 64-512 bias"
    records = {
        "H100": Record(vendor="torch 9", chains={name: {1: 1, 2: 4}, "float16 64-64": {5: 3}}),
        "A100": Record(vendor="torch 8", chains={name: {1: 1}}),
    }
    monkeypatch.setattr(contract, "records", lambda: records)
    found = [Recovered(layer=name, m=1, chains=2), Recovered(layer=name, m=2), Recovered(layer=name, m=16, chains=1)]
    kept = json.loads(merged(found, "H100", "torch 9"))
    assert kept["H100"] == {"vendor": "torch 9", "chains": {name: {"1": 2, "16": 1}, "float16 64-64": {"5": 3}}}
    assert kept["A100"] == {"vendor": "torch 8", "chains": {name: {"1": 1}}}
    # Another vendor's orders are others.
    other = json.loads(merged(found, "H100", "torch 10"))
    assert other["H100"] == {"vendor": "torch 10", "chains": {name: {"1": 2, "16": 1}}}
    monkeypatch.undo()
    assert merged([], *_only(contract.records())) == contract.FILE.read_text()


def test_float32_s_orders_are_not_kept():
    kept = json.loads(merged([Recovered(layer="float32 64-64", m=1, chains=4)], "H100", "torch 9"))
    assert kept["H100"]["chains"] == {}


def _only(records):
    ((name, record),) = records.items()
    return name, record.vendor


def test_real_workers_draw_the_same_operands_and_agree():
    """With interpreters, and the eager MLP of a CPU: whose sums of float16 are another's, but for short ones."""
    mlp = Problem(
        m=5, in_features=16, hidden_features=16, out_features=16, activation="relu2", gated=True, bias_up=True,
        bias_down=True, dtype="float16",
    )  # fmt: skip
    asked = [(Mlp(problem=mlp, plan=Plan(order=Order.VENDOR, split_k=1)), True)]
    layer = Layer(dtype="float16", inner=131, outer=40, bias=True, rows=(3,))
    with Lanes([[Worker(spec) for spec in specs("cpu", "vendor")]]) as workers:
        (verdict,) = replay(workers, asked)
        (one,) = recover(workers, [layer])
    assert not verdict.why
    assert verdict.equal == {"torchfused": True, "jaxfused": True}
    assert verdict.total == 80
    assert not one.why
    assert set(one.equal) == {"1", "2", "3"}


def test_the_command_needs_a_gpu():
    called = CliRunner().invoke(app, ["vendor", "--workloads", str(WORKLOADS)], env={"CUDA_VISIBLE_DEVICES": ""})
    assert called.exit_code == 2
    assert "the NVIDIA driver shows none here" in " ".join(called.output.split())

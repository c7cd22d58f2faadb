"""`parity vendor`: what it asks, what is red, what it keeps; and its real workers, where there is no GPU."""

import json
import os
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from parity import options as parity_options
from parity.cli import app
from parity.contract import vendor as contract
from parity.contract.activations import ACTIVATIONS
from parity.contract.plan import Plan, Strategy
from parity.contract.problem import Device, Problem
from parity.contract.tiles import chain_length
from parity.contract.vendor import Order, Record
from parity.drift_table import print_vendor
from parity.gpu import Gpu
from parity.process import Spec, Worker, specs
from parity.run import Where
from parity.vendor import (
    HALF_ROWS,
    Lanes,
    Recovered,
    Replay,
    described,
    layers,
    merged,
    mlps,
    orders,
    problems,
    reasons,
    recorded,
    recover,
    replay,
)
from parity.vendor_worker import Layer, Mlp, cuts, read

HERE = Path(__file__).parent
WORKLOADS = HERE.parent / "bench/workloads.json"
MLP = Problem(m=16, in_features=4096, hidden_features=8192, out_features=512, activation="silu", dtype="bfloat16")
GPU = Gpu(device=Device(kind="gpu", name="H100", capability=(9, 0)), driver="1")
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
    red = reasons(found, replays, {("bfloat16 8-8", 5): 2})
    print_vendor(found, replays, red, Console(width=120))
    text = capsys.readouterr().out
    assert "1 of 2 orders recovered" in text
    assert "bfloat16 8-8 at 5 rows: in no order that was tried" in text
    assert "y 2, h 1" in text
    assert "0 of 1 promised MLPs have every bit of torch's eager, in both twins" in text
    assert "RED bfloat16 8-8 at 5 rows: recorded in 2 chains, it adds in no order that was tried" in text
    assert "tiled/portable in the vendor's order: other bits than eager in torchfused" in text
    content = json.loads(json.dumps(described(found, replays, red)))
    assert content["cases"][0]["red"]
    assert content["reasons"] == red


def test_what_could_not_be_asked_is_printed(capsys):
    found = [Recovered(layer="bfloat16 8-8", m=1, why="[the worker ended]")]
    with lanes("raise jax", count=1) as workers:
        replays = list(replay(workers, [(Mlp(problem=MLP, plan=Plan(order=Order.VENDOR, split_k=1)), True)]))
    print_vendor(found, replays, reasons(found, replays, {}), Console(width=160))
    text = capsys.readouterr().out
    # In the last column, under "other bits".
    assert re.search(r"tiled/portable\s+jax: ValueError: no", text)
    assert "RED bfloat16 8-8 at 1 rows: [the worker ended]" in text
    assert "0 of 1 promised MLPs" in text


NAME, FLOAT = "bfloat16 8-8", "float32 8-8"
GOOD = Replay(problem=MLP, plan="tiled", promised=True, total=4, equal={"torchfused": True, "jaxfused": True})


@pytest.mark.parametrize(
    ("one", "record", "why"),
    [
        (Recovered(layer=NAME, m=1, chains=2), {(NAME, 1): 2, (NAME, 4): 3}, ""),
        (Recovered(layer=NAME, m=1, chains=2), {}, ""),
        # That no order is found is a finding, where none was before.
        (Recovered(layer=NAME, m=1), {}, ""),
        (
            Recovered(layer=NAME, m=1),
            {(NAME, 1): 2},
            "recorded in 2 chains, it adds in no order that was tried; if the",
        ),
        (Recovered(layer=NAME, m=1, chains=3), {(NAME, 1): 2}, "recorded in 2 chains, it adds in 3; if the record is"),
        (Recovered(layer=NAME, m=1, why="ended"), {}, "ended"),
        (Recovered(layer=NAME, m=1, why="ended"), {(NAME, 1): 2}, "ended"),
        (Recovered(layer=FLOAT, m=1, why="ended"), {}, ""),
    ],
)
def test_a_recorded_order_stays_promised(one, record, why):
    found = reasons([one], [GOOD], record)
    assert [text.startswith(f"{NAME} at 1 rows: {why}") for text in found] == [True] * bool(why)


def test_a_run_that_checks_nothing_is_red():
    assert reasons([], [GOOD], {}) == []
    nothing = "no MLP is promised: of none are the orders of both GEMMs known"
    assert reasons([], [], {}) == [nothing]
    assert reasons([], [replace(GOOD, promised=False)], {}) == [nothing]
    assert reasons([], [replace(GOOD, equal={})], {}) == [f"{GOOD}: nothing was compared"]
    assert reasons([], [replace(GOOD, equal={"torchfused": True, "jaxfused": False})], {}) == [
        f"{GOOD}: other bits than eager in jaxfused"
    ]


def test_mlps_of_recorded_orders_are_run_in_these(monkeypatch):
    monkeypatch.setattr(contract, "records", lambda: {"H100": Record(vendor="torch 9", chains={NAME: {1: 2, 4: 3}})})
    record = recorded("H100", "torch 9")
    assert record == {(NAME, 1): 2, (NAME, 4): 3}
    assert recorded("H100", "torch 10") == recorded("A100", "torch 9") == {}
    found = [Recovered(layer=NAME, m=1, why="ended"), Recovered(layer=NAME, m=4, chains=1)]
    assert orders([*found, Recovered(layer=NAME, m=16, chains=5)], record) == record | {(NAME, 16): 5}


@pytest.fixture
def command(monkeypatch, tmp_path):
    """`parity vendor` on a made-up H100 with made-up workers, over a small record: called with a fault and options, it
    gives the result and what it left of the record."""
    file, workloads = tmp_path / "orders.json", tmp_path / "workloads.json"
    one = {"in": 64, "hidden": 8192, "out": 64, "activation": "relu", "gated": False, "biases": False}
    workloads.write_text(json.dumps({"workloads": {"one": one}}))
    layers = {"bfloat16 64-8192": {1: 1}, "bfloat16 8192-64": {1: 2}}
    monkeypatch.setattr(contract, "FILE", file)

    def call(fault, *options, vendor="torch 9", layers=layers):
        records = {"H100": Record(vendor=vendor, chains=layers)}
        monkeypatch.setattr(contract, "records", lambda: records)
        file.write_text("before")

        class Here(parity_options.Here):
            def where(self, kind="worker"):
                workers = [worker.spec for worker in lanes(fault, count=1).lanes[0]]
                return Where(device=GPU.device, workers=workers)

        monkeypatch.setattr(parity_options, "here", lambda device: Here(gpu=GPU))
        asked = ["vendor", "--workloads", str(workloads), "--json", str(tmp_path / "vendor.json"), *options]
        called = CliRunner().invoke(app, asked)
        content = json.loads((tmp_path / "vendor.json").read_text())
        return called, content, file.read_text()

    return call


def test_a_good_run_is_merged(command):
    called, content, kept = command("", "--merge")
    assert called.exit_code == 0, called.output
    assert content["reasons"] == []
    rows = json.loads(kept)["H100"]["chains"]
    assert rows["bfloat16 8192-64"] == {str(m): 2 for m in HALF_ROWS}
    assert command("")[2] == "before"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("chains", "bfloat16 8192-64 at 1 rows: recorded in 2 chains, it adds in 3"),
        ("lost", "bfloat16 8192-64 at 1 rows: recorded in 2 chains, it adds in no order that was tried"),
        (
            "raise torch",
            "bfloat16 64-8192 at 1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384 rows: Value",
        ),
        (
            "crash",
            "bfloat16 64-8192 at 1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384 rows: the torch",
        ),
        ("raise jax", "relu bfloat16 1x64x8192x64 tiled/portable"),
        ("jaxfused", "relu bfloat16 1x64x8192x64 tiled/portable"),
    ],
)
def test_a_red_run_is_not_merged(command, fault, reason):
    called, content, kept = command(fault, "--merge")
    assert called.exit_code == 1, called.output
    assert any(one.startswith(reason) for one in content["reasons"]), content["reasons"]
    assert any(case["promised"] for case in content["cases"])
    assert kept == "before"
    assert f"nothing is merged into orders.json: of {len(content['reasons'])} reasons" in called.output


@pytest.mark.parametrize("fault", ["raise torch", "crash"])
def test_a_run_of_another_build_that_recovers_nothing_is_red(command, fault):
    called, content, kept = command(fault, "--merge", vendor="torch 8")
    assert (called.exit_code, kept) == (1, "before")
    assert content["reasons"][-1].startswith("no MLP is promised")


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
    # What could not be asked is as it was.
    assert json.loads(merged([Recovered(layer=name, m=1, why="ended")], "H100", "torch 9"))["H100"]["chains"] == {
        name: {"1": 1, "2": 4}, "float16 64-64": {"5": 3}
    }  # fmt: skip
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

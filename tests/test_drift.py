"""Drift between emulated runners, of which one does one thing otherwise: the knob is named, nothing is left over."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from test_golden import emulated
from typer.testing import CliRunner

from parity import portrait, stimulus
from parity.adder import Adder
from parity.cli import app
from parity.contract.plan import Plan
from parity.contract.problem import Problem
from parity.contract.tolerance import LAMBDA
from parity.drift import pair, replay
from parity.drift_report import Asked, reasons, report
from parity.emulator import ascending
from parity.epilogue import contract, stages
from parity.growth import along_k, with_depth
from parity.knobs import _settings
from parity.portrait import WORK, portrait_of
from parity.sample import Emulation, Sample
from parity.session import Session

HALF = Problem(
    m=16, in_features=192, hidden_features=128, out_features=40, activation="relu",
    bias_up=True, bias_down=True, dtype="float16",
)  # fmt: skip
WIDE = replace(HALF, dtype="float32")
TF32 = replace(HALF, dtype="float32", precision="tf32")
BOTH = ("jaxfused", "torchfused")


def portraits(fault, problem, runners=BOTH, tensor=True):
    arrays = stimulus.generate(problem, "normal", 5)
    with Session(emulated(fault)) as session:
        found = session.ask(problem, arrays, Plan(), runners).stages
        drawn = [portrait_of(session, problem, arrays, Plan(), name, found[name], tensor) for name in runners]
    return arrays, found, drawn


def drifted(fault, problem, runners=BOTH):
    arrays, found, (a, b) = portraits(fault, problem, runners)
    return pair(on(problem, arrays), found, a, b)


def on(problem, arrays):
    return Emulation.on(problem, arrays, Sample.of(problem, WORK))


def test_equal_runners_have_nothing_to_explain():
    found = drifted("hopper", HALF)
    assert set(found.differ.values()) == {0}
    assert found.steps == []


@pytest.mark.parametrize(
    ("fault", "problem", "stage", "knob"),
    [
        ("order", HALF, "s", "order of summation"),
        ("order", WIDE, "s", "order of summation"),
        ("bias", HALF, "s", "place of the bias"),
        ("bias", TF32, "y", "place of the bias"),
        ("apart", WIDE, "s", "order of summation"),
        ("truncated", TF32, "s", "order of summation"),
    ],
)
def test_a_planted_knob_is_named_and_explains_every_bit(fault, problem, stage, knob):
    found = drifted(f"hopper-{fault}", problem)
    assert found.differ[stage] > 0
    assert set(found.unexplained.values()) == {0}
    steps = [step for step in found.steps if step.stage == stage and step.knob == knob]
    assert len(steps) == 1
    assert steps[0].a != steps[0].b
    assert {step.knob for step in found.steps} <= {knob, "s it came from", "h it came from"}


def test_rounding_s_is_named():
    apart = drifted("hopper-rounded", replace(HALF, activation="relu2"))
    assert apart.differ["h"] > 0
    assert set(apart.unexplained.values()) == {0}
    assert [(step.knob, step.a, step.b) for step in apart.steps if step.stage == "s"] == [
        ("s is rounded", "False", "True")
    ]


def test_a_rounding_that_s_own_tap_hides_is_turned_too():
    """A framework's s is as narrow as its h: no bit of it differs from a wider tap, and all that comes of it does."""
    silu = replace(HALF, activation="silu")
    arrays, _, (wide, _) = portraits("hopper", silu)
    narrow = replace(wide, runner="eager", recipe=replace(wide.recipe, round_s=True, spelling="framework"))
    found = {one.runner: stages(silu, arrays, one.recipe) for one in (wide, narrow)}
    found["eager"] = {**found["eager"], "s": found["eager"]["s"].astype(np.float16)}
    for a, b in ((wide, narrow), (narrow, wide)):
        apart = pair(on(silu, arrays), found, a, b)
        assert apart.differ["s"] == 0
        assert apart.differ["h"] > 0
        assert set(apart.unexplained.values()) == {0}
        assert "s it came from, rounded" in {step.knob for step in apart.steps if step.stage == "h"}


@pytest.mark.parametrize("fault", ["dropped_k_tail", "rows_swapped", "y_truncated", "bias_up_skipped"])
def test_what_no_knob_explains_is_counted(fault):
    stage = {"rows_swapped": "y", "y_truncated": "y"}.get(fault, "s")
    arrays, found, (good, bad) = portraits(fault, HALF)
    assert good.wrong[stage] == 0
    assert bad.wrong[stage] > 0
    assert pair(on(HALF, arrays), found, good, bad).unexplained[stage] > 0


def test_an_unusual_order_is_asked_for():
    _, _, (usual, three) = portraits("hopper-order", HALF)
    assert str(usual.recipe.up.order) == "chain[12 x (16+acc)]"
    assert str(three.recipe.up.order) == "3 x chain[4 x (16+acc)]"
    assert set(three.wrong.values()) == set(usual.wrong.values()) == {0}


def test_the_framework_is_replayed_where_a_split_gives_its_order():
    problem = replace(HALF, dtype="float32")
    arrays = stimulus.generate(problem, "normal", 5)
    with Session(emulated("hopper")) as session:
        found = session.ask(problem, arrays, Plan(), ["eager", "torchfused"]).stages
        vendor = portrait_of(session, problem, arrays, Plan(), "torchfused", found["torchfused"], True)
        same = replay(session, problem, arrays, vendor, found["torchfused"], "jaxfused")
        asked = session.ask(problem, arrays, Plan(split_k=(3, 2)), ["torchfused"]).stages["torchfused"]
        split = portrait_of(session, problem, arrays, Plan(split_k=(3, 2)), "torchfused", asked, True)
        other = replay(session, problem, arrays, split, asked, "jaxfused")
    assert same.split_k == (1, 1)
    assert other.split_k == (3, 2)
    assert set(same.differ.values()) == set(other.differ.values()) == {0}


def test_the_report_turns_every_knob_and_the_real_ones_do_as_predicted():
    for problem in (HALF, WIDE, TF32, replace(HALF, activation="silu", gated=True, bias_gate=True)):
        with Session(emulated("hopper")) as session:
            told = report(session, Asked(problem=problem, tensor=True, runners=BOTH, lengths=(32, 64), depth=2))
        assert told["reasons"] == []
        assert [one["runner"] for one in told["portraits"]] == list(BOTH)
        turned = {(turn["knob"], turn["setting"]): turn for turn in told["knobs"]}
        for split in (2, 4):
            turn = turned["order of summation", f"split_k {split}"]
            assert turn["changed"]["s"] > 0
            assert turn["observed"] == dict.fromkeys(BOTH, turn["changed"])
            assert all(set(counts.values()) == {0} for counts in turn["missed"].values())
        assert turned["place of the bias", "first"]["changed"]["s"] > 0
        if problem.dtype == "float16":
            assert turned["h is rounded", "False"]["changed"]["y"] > 0
        if problem is WIDE:
            assert turned["tf32", "nearest, ties away"]["observed"]["jaxfused"]["s"] > 0
            assert set(turned["tf32", "nearest, ties away"]["missed"]["jaxfused"].values()) == {0}
        json.dumps(told, allow_nan=False)


@pytest.mark.parametrize("fault", ["hopper-fraction", "hopper-nearest", "raise"])
def test_on_a_gpu_an_unexplained_bit_is_red(fault):
    with Session(emulated(fault)) as session:
        told = report(session, Asked(problem=HALF, tensor=True, runners=BOTH))
    assert any("torchfused" in reason for reason in told["reasons"])


@pytest.mark.parametrize("fault", ["dropped_k_tail", "rows_swapped", "bias_up_skipped", "y_truncated"])
def test_without_a_gpu_an_unexplained_bit_is_red(fault):
    for planted in ("", fault):
        with Session(emulated(planted, other="")) as session:
            told = report(session, Asked(problem=HALF, tensor=False, runners=BOTH))
        red = [reason for reason in told["reasons"] if "torchfused" in reason]
        assert bool(red) is bool(planted), told["reasons"]
        assert not [reason for reason in told["reasons"] if "jaxfused" in reason]


def test_an_order_that_cannot_be_found_is_told_and_is_red_of_a_twin_alone():
    with Session(emulated("atomics", other="")) as session:
        told = report(session, Asked(problem=WIDE, tensor=False, runners=BOTH))
    (bad,) = (one for one in told["portraits"] if one["runner"] == "torchfused")
    assert bad["wrong"]["s"] > 0
    assert "order" in bad["why"]["up"]
    red = f"elements of s are unexplained ({bad['why']['up']})"
    assert red in " ".join(told["reasons"])
    bad["runner"] = "eager"
    assert "elements of s are unexplained" not in " ".join(reasons(told, False))
    bad["why"] = {}
    assert "elements of s are unexplained" in " ".join(reasons(told, False))
    assert "elements of s are unexplained" not in " ".join(reasons(told, True))


def test_a_runner_that_fails_in_the_growth_or_at_a_knob_is_red():
    with Session(emulated("fails_later")) as session:
        told = report(session, Asked(problem=HALF, tensor=True, runners=BOTH, lengths=(32, 64), depth=3))
    assert told["errors"] == {}
    for at in ("with 64 summands", "in layer 2", "with order of summation split_k 2"):
        assert [reason for reason in told["reasons"] if f"torchfused {at}: ValueError: too much" in reason], at
    assert not [reason for reason in told["reasons"] if "jaxfused" in reason]
    assert [point["failed"] for point in told["along_k"]] == [{}, {"torchfused": "ValueError: too much"}]
    assert [set(point["failed"]) for point in told["with_depth"]] == [set(), {"torchfused"}, set()]
    assert "torchfused" not in told["along_k"][1]["runners"]


def test_a_knob_that_does_not_as_predicted_is_red():
    with Session(emulated("hopper-unsplit")) as session:
        told = report(session, Asked(problem=WIDE, tensor=True, runners=BOTH))
    assert "torchfused with order of summation split_k 2: " in " ".join(told["reasons"])
    assert all("mispredicted" in reason for reason in told["reasons"])
    assert not [reason for reason in told["reasons"] if "jaxfused" in reason]


def test_each_gemm_s_own_adder_is_turned():
    base = contract(HALF, Plan())
    mixed = replace(base, down=replace(base.down, adder=Adder(), order=ascending(HALF.hidden_features)))
    for setting in _settings(HALF, mixed, True):
        stages(HALF, stimulus.generate(HALF, "normal", 5), setting.recipe)


def test_a_large_layer_is_sampled_everywhere():
    large = replace(HALF, m=256, in_features=512, hidden_features=700, out_features=300)
    sample = Sample.of(large, 4e6)
    for indices, size in ((sample.rows, 256), (sample.hidden, 700), (sample.out, 300)):
        assert (indices[0], indices[-1]) == (0, size - 1)
        assert 16 < len(indices) == len(set(indices)) < size
        assert set(indices % 8) == set(range(8))
    assert len(sample.rows) * len(sample.hidden) * 512 <= 4e6
    assert len(sample.rows) * len(sample.out) * 700 <= 4e6
    whole = Sample.of(HALF, 4e6)
    assert [len(indices) for indices in (whole.rows, whole.hidden, whole.out)] == [16, HALF.hidden_features, 40]
    thin = Sample.of(replace(large, m=1), 4e6)
    assert [len(indices) for indices in (thin.rows, thin.hidden, thin.out)] == [1, 700, 300]
    assert len(Sample.of_rows(large, 3e6).rows) == 5


def test_a_sample_finds_what_the_whole_would(monkeypatch):
    large = replace(HALF, m=96, in_features=192, hidden_features=320, out_features=200)
    whole = drifted("hopper-order", large)
    monkeypatch.setattr(portrait, "TRIAL", 1e5)
    monkeypatch.setattr(portrait, "WORK", 1e6)
    monkeypatch.setitem(globals(), "WORK", 1e6)
    some = drifted("hopper-order", large)
    assert some.total["s"] < whole.total["s"] / 4
    assert [(step.stage, step.knob) for step in some.steps] == [(step.stage, step.knob) for step in whole.steps]
    assert set(some.unexplained.values()) == set(whole.unexplained.values()) == {0}
    for stage, differ in whole.differ.items():
        share = differ / whole.total[stage]
        spread = LAMBDA * (share * (1 - share) / some.total[stage]) ** 0.5
        assert abs(some.differ[stage] / some.total[stage] - share) <= spread


def test_errors_grow_as_the_laws_say():
    problem = replace(HALF, dtype="bfloat16")
    with Session(emulated("hopper")) as session:
        points = list(along_k(session, problem, (128, 2048), True, BOTH))
        stack = list(with_depth(session, HALF, 3, ["jaxfused", "torchfused", "eager"]))
    for point in points:
        assert set(point.runners) == set(BOTH)
        assert point.runners["jaxfused"] == point.emulated["one chain, tensor core"]
        assert point.emulated["4 chains, tensor core"] < point.emulated["one chain, tensor core"] < point.worst
        assert point.walk < LAMBDA * point.runners["jaxfused"] < LAMBDA**2 * point.walk
    assert points[1].walk > 3 * points[0].walk
    assert points[1].worst / points[0].worst > points[1].walk / points[0].walk
    assert [deep.depth for deep in stack] == [1, 2, 3]
    assert all(deep.bits["jaxfused ~ torchfused"] == 0.0 for deep in stack)
    assert stack[-1].bits["jaxfused ~ eager"] > 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--runner", "numpy"), "runner is 'numpy', must be one of"),
        (("--activation", "step"), "activation is 'step', must be one of"),
        (("--json", "/nowhere/drift.json"), "cannot write /nowhere/drift.json"),
    ],
)
def test_what_cannot_be_asked(arguments, text):
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["drift", *arguments])
    assert done.exit_code == 2
    assert text in done.stderr


def test_the_frameworks_drift(tmp_path):
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    path, picture = tmp_path / "drift.json", tmp_path / "drift.png"
    words = ("--device", "cpu", "--k", "32", "--hidden", "32", "--n", "16", "--length", "32", "--depth", "2")
    done = subprocess.run(
        [sys.executable, "-m", "parity", "drift", *words, "--json", str(path), "--plot", str(picture)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 140
    assert picture.read_bytes().startswith(b"\x89PNG")
    told = json.loads(path.read_text())
    assert told["schema"] == "parity.drift/2"
    (drift,) = told["drifts"]
    assert len(drift["portraits"]) == 4
    assert len(drift["pairs"]) == 6


def test_the_frameworks_are_replayed_to_the_bit_in_every_type(tmp_path):
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    path = tmp_path / "drift.json"
    words = ("--device", "cpu", "--every-type", "--k", "40", "--hidden", "32", "--length", "32", "--depth", "1")
    command = [sys.executable, "-m", "parity", "drift", *words, "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(path.read_text())
    assert told["reasons"] == []
    types = [(drift["problem"]["dtype"], drift["problem"]["precision"]) for drift in told["drifts"]]
    assert types == [("float16", "ieee"), ("float32", "tf32"), ("float32", "ieee")]
    for drift in told["drifts"]:
        for one in drift["portraits"]:
            assert not any(one["wrong"].values()) or one["why"], one

"""`parity latency`: verdicts from made-up times, no time for wrong results, and the real workers from end to end."""

import json
from dataclasses import replace

import pytest
from planted import CPU, specs, where
from typer.testing import CliRunner

from parity import options
from parity.cases import build
from parity.cli import app
from parity.latency import PAIRS, SCHEMA, cases, latency
from parity.latency_worker import Ask
from parity.process import specs as real
from parity.protocol import Request

CASE = build("gelu_tanh", (4, 16, 24, 16), "fp16", biases="ud")
TWINS = ("torchfused", "jaxfused")


def row(slower: float = 1.0, spread: float = 0.002, fault: str = "", case=CASE):
    workers = specs(fault, "planted_latency", str(slower), str(spread))
    (found,) = latency([case], replace(where(device=CPU), workers=workers), blocks=8)
    return found


@pytest.mark.parametrize(
    ("slower", "spread", "verdict"),
    [(1.0, 0.002, "SAME"), (1.1, 0.002, "SLOWER"), (0.9, 0.002, "FASTER"), (1.0, 0.3, "UNCLEAR")],
)
def test_verdict(slower, spread, verdict):
    found = row(slower, spread)
    assert not found.wrong
    assert set(found.pairs) == set(PAIRS)
    twins = found.pairs[TWINS]
    assert twins.verdict == verdict
    assert twins.low <= twins.ratio <= twins.high
    assert len(found.estimates["xla"].blocks) == 8
    assert found.pairs["eager", "xla"].verdict == ("SAME" if verdict != "UNCLEAR" else "UNCLEAR")


def test_a_wrong_result_is_not_timed():
    found = row(fault="bias_up_skipped")
    assert "wrong results" in found.wrong
    assert "torchfused" in found.wrong
    assert not found.estimates
    assert row(fault="refuses").wrong == "torchfused: ValueError: this runner cannot"


@pytest.mark.parametrize("fault", ["dies", "dies_timed"])
def test_a_worker_that_dies_is_named_and_the_next_case_is_timed(fault):
    workers = specs(fault, "planted_latency", "1", "0.002")
    other = build("relu", (4, 16, 24, 16), "fp16")
    first, second = latency([CASE, other], replace(where(device=CPU), workers=workers), blocks=4)
    assert "the torch worker ended with exit code 3" in first.wrong
    assert not first.estimates
    assert not second.wrong
    assert set(second.pairs) == set(PAIRS)


def test_what_cannot_be_chained_or_run():
    with pytest.raises(ValueError, match="y is the next layer's x"):
        row(case=build("relu", (4, 16, 24, 8)))
    found = row(case=build("relu", (4, 16, 24, 16), "bf16"))
    assert "bfloat16" in found.skipped
    assert not found.wrong


def test_a_question_survives_json():
    request = Request(case="x", problem=CASE.problem, plan=CASE.plan, save="preact", arrays={}, out="/tmp")
    for ask in (Ask(request=request, layers=3), Ask(reverse=True)):
        assert Ask.from_json(ask.to_json()) == ask


def test_the_layers_that_are_timed_can_be_chained():
    for device in ("cpu", "gpu"):
        assert all(case.problem.in_features == case.problem.out_features for case in cases(device))


def test_the_real_workers():
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    (found,) = latency(
        [build("relu", (4, 16, 16, 16))], replace(where(device=CPU), workers=real("cpu", "latency")), blocks=2
    )
    assert not found.wrong
    assert found.plan.startswith("tiled")
    assert {name for name, e in found.estimates.items() if e.median > 0} == {"jaxfused", "torchfused", "xla", "eager"}


def test_command_writes_json_and_fails_on_wrong_results(tmp_path, monkeypatch):
    path = tmp_path / "latency.json"
    for fault, code in (("", 0), ("bias_down_skipped", 1)):
        workers = specs(fault, "planted_latency", "1.2", "0.001")
        monkeypatch.setattr(options, "specs", lambda device, kind, workers=workers: workers)
        done = CliRunner().invoke(app, ["latency", "--device", "cpu", "--blocks", "3", "--json", str(path)])
        assert done.exit_code == code, done.output
        content = json.loads(path.read_text())
        assert content["schema"] == SCHEMA
        assert bool(content["rows"][0]["wrong"]) is bool(fault)
        assert ("SLOWER" in done.output) is (not fault)

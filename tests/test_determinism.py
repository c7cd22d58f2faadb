"""`parity determinism`: what is the same bits is said to be, and each way of not being it is red in its place."""

import json

import pytest
from planted import CPU, specs, where
from typer.testing import CliRunner

from parity import options
from parity.cases import build
from parity.cli import app
from parity.determinism import SCHEMA, Battery, cases, determinism, plans

CASE = build("gelu_tanh", (20, 80, 140, 24), "fp16", biases="ud")


def battery(fault: str = "", case=CASE, **options) -> Battery:
    return determinism([case], where(fault, **options), runs=4, processes=2)


def red(found: Battery) -> set[tuple[str, str]]:
    return {(check.runner, check.check) for check in found.checks if check.red}


def test_right_runners_pass_and_are_one_class():
    found = battery()
    assert found.passed
    asked = {check.check for check in found.checks}
    assert asked == {"repeat", "process", "alone", "batch", "position", "shared hidden", "shared y"}
    # The emulation knows no split: all its plans have the bits of one.
    (y,) = (c for c in found.classes if c.stage == "y")
    assert {member.split()[0] for member in y.members} == {"jaxfused", "torchfused", "xla", "eager"}
    assert {stage.stage for stage in found.classes} == {"s", "h", "y"}


def test_sums_in_random_order_are_red():
    found = battery("atomics")
    assert {("torchfused", "repeat"), ("torchfused", "process"), ("all", "shared hidden")} <= red(found)
    assert not [check for check in found.checks if check.red and check.runner == "jaxfused"]
    detail = next(c.detail for c in found.checks if c.red and c.check == "repeat")
    assert "results: s" in detail


@pytest.mark.parametrize(
    ("fault", "checks"),
    [("split_by_rows", {"alone"}), ("first_row", {"position"}), ("split_up", set())],
)
def test_bits_that_hang_on_the_batch_are_red(fault, checks):
    found = battery(fault)
    own = {check for runner, check in red(found) if runner == "torchfused"}
    assert checks <= own
    assert "repeat" not in own
    assert "process" not in own


def test_twins_that_should_share_bits_and_do_not_are_red():
    found = battery("split_up")
    assert red(found) == {("all", "shared hidden"), ("all", "shared y")}
    assert len([c for c in found.classes if c.stage == "s"]) == 2


def test_an_interpreter_promises_less():
    assert battery("split_by_rows", device=CPU).passed
    assert not battery("atomics", device=CPU).passed
    assert not battery("first_row", device=CPU).passed


def test_plans_are_those_that_can_run_and_have_partners():
    for device, kind in (("cpu", where(device=CPU)), ("gpu", where())):
        for case in cases(device):
            found = plans(case.problem, kind)
            splits = [plan.split_k for plan in found.values()]
            assert {(1, 1), (2, 2), (4, 2)} <= {split for split in splits if splits.count(split) > 1}
            assert ({"decode-hopper", "tiled-hopper"} <= found.keys()) is (device == "gpu")


def test_command_writes_json_and_its_exit_code_is_the_verdict(tmp_path, monkeypatch):
    path = tmp_path / "determinism.json"
    arguments = ["determinism", "--device", "cpu", "--case", "gelu_tanh-ud-fp32-33x47x65x29"]
    for fault, code in (("", 0), ("atomics", 1)):
        monkeypatch.setattr(options, "specs", lambda device, kind, fault=fault: specs(fault))
        done = CliRunner().invoke(app, [*arguments, "--runs", "2", "--processes", "1", "--json", str(path)])
        content = json.loads(path.read_text())
        assert content["schema"] == SCHEMA
        assert done.exit_code == code, done.output
        assert ("passed" in done.output) is (not fault)
        assert content["passed"] is (not fault)
        assert {"sha256", "members"} <= content["classes"][0].keys()


def test_only_the_plans_that_are_named_are_run(tmp_path, monkeypatch):
    path = tmp_path / "determinism.json"
    monkeypatch.setattr(options, "specs", lambda device, kind: specs("atomics"))
    arguments = ["determinism", "--device", "cpu", "--case", CASE.name, "--runs", "2", "--processes", "1"]
    monkeypatch.setattr("parity.determinism.cases", lambda device: [CASE])
    done = CliRunner().invoke(app, [*arguments, "--plan", "small", "--plan", "own", "--json", str(path)])
    assert done.exit_code == 1, done.output
    checks = json.loads(path.read_text())["checks"]
    assert {(check["plan"], check["runner"]) for check in checks if check["check"] == "repeat"} == {
        ("small", "jaxfused"), ("small", "torchfused"), ("own", "xla"), ("own", "eager"),
    }  # fmt: skip
    assert {check["runner"] for check in checks if check["red"]} == {"torchfused"}
    for name, text in (("huge", "plan is 'huge', must be one of"), ("tiled-hopper", "tiled-hopper cannot run it")):
        done = CliRunner(env={"COLUMNS": "300"}).invoke(app, [*arguments, "--plan", name])
        assert done.exit_code == 2
        assert text in done.output


def test_a_case_that_no_plan_can_run_is_misuse():
    arguments = ["determinism", "--device", "cpu", "--case", "silu-gated-bf16-33x47x65x29"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "no plan can run it here" in done.output


def test_a_command_s_own_cases_come_first():
    own = cases("gpu")
    assert options.chosen(None, own) == own
    assert options.chosen(["silu*"], own) == own[1:]
    assert [case.name for case in options.chosen(["tanh-d-fp32*"], own)] == ["tanh-d-fp32-1x37x70x19-small-recompute"]

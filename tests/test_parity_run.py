"""The controller with workers that behave and workers that do not; no framework is started."""

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from parity.cases import SHAPES, build
from parity.contract.problem import Device
from parity.judge import RUNNERS
from parity.process import Spec, Worker, WorkerError, specs
from parity.protocol import Request
from parity.run import ERROR, FAILED, PASSED, SKIPPED, Where, run
from parity.worker_jax import Jax

CASES = [
    build("silu", SHAPES["ragged"], "fp16", gated=True, biases="ugd"),
    build("gelu_tanh", SHAPES["ragged"], biases="ud"),
    build("relu", SHAPES["ragged"], "fp16", biases="ud", stimulus="integer"),
]


def workers(fault=""):
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    return [
        Spec(
            name=name,
            module="emulated_worker",
            arguments=(name,),
            environment={"PYTHONPATH": paths, "PARITY_FAULT": fault if name == "torch" else ""},
        )
        for name in ("jax", "torch")
    ]


def test_a_bug_in_the_real_worker_is_red():
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    jax, torch = specs("cpu")
    bug = replace(torch, module="mutant_worker_torch", environment=torch.environment | {"PYTHONPATH": paths})
    found = []
    run(CASES[:1], Where(device=Device(kind="interpreter"), workers=[jax, bug]), found.append)
    assert found[0].status == FAILED, found[0].reason
    red = {(pair.a, pair.b, pair.stage) for pair in found[0].pairs if pair.red}
    assert red >= {("torchfused", reference, "u") for reference in ("oracle", "xla", "eager")}
    assert all("torchfused" in (a, b) for a, b, _ in red)


def test_interpreted_kernels_are_compiled_quickly_and_the_users_flags_kept(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/dev/null")
    for spec in specs("cpu"):
        assert spec.environment["XLA_FLAGS"] == "--xla_dump_to=/dev/null --xla_cpu_use_fusion_emitters=false"
    assert all("XLA_FLAGS" not in spec.environment for spec in specs("gpu"))


def test_what_is_quick_is_the_kernels_alone():
    """The unfused runner is XLA as it comes, whatever the kernels before and after it were compiled with."""
    jax = pytest.importorskip("jax")
    framework = Jax("cpu")
    seen = []

    def compiled(_, dy=None, **given):
        seen.append(jax.config.values["jax_disable_most_optimizations"])
        return {}

    framework.fused = SimpleNamespace(stages=partial(compiled, "stages"), gradients=partial(compiled, "gradients"))
    request = Request(case="", problem=CASES[0].problem, plan=None, save="preact", arrays={}, out="")
    framework._run_fused(request, {})
    assert seen == [True]
    assert jax.config.values["jax_disable_most_optimizations"] is False
    framework.reference = SimpleNamespace(stages=lambda x, **options: compiled("reference") or {"y": x})
    framework._run_reference(request, {"x": jax.numpy.ones(3)})
    assert seen == [True, False]


FIRST_BIASES = {
    f"d_{name}" for name in ("b_up", "b_gate", "b_down") if getattr(CASES[0].problem, name.replace("b_", "bias_"))
}


def outcomes(cases, fault="", seconds=60.0):
    found = []
    where = Where(device=Device(kind="interpreter"), workers=workers(fault), case_seconds=seconds)
    hellos = run(cases, where, found.append)
    return found, hellos


def test_right_results_pass():
    special = build("identity", SHAPES["ragged"], "bf16", stimulus="special")
    empty = build("tanh", SHAPES["empty"], "fp16")
    found, hellos = outcomes([*CASES, special, empty])
    assert [outcome.status for outcome in found] == [PASSED] * 5
    assert hellos["torch"]["device"] == "numpy"
    first = found[0]
    assert {(p.a, p.b) for p in first.pairs} == {
        ("jaxfused", "torchfused"), ("jaxfused", "xla"), ("jaxfused", "eager"), ("torchfused", "xla"),
        ("torchfused", "eager"), ("xla", "eager"),
        *((runner, oracle) for runner in RUNNERS for oracle in ("oracle", "oracle_pure")),
        ("jaxfused", "oracle_step"), ("torchfused", "oracle_step"),
    }  # fmt: skip
    inner, operands = {"d_s"}, {"d_x", "d_w_up", "d_w_down"}
    assert {p.stage for p in first.pairs} == {"s", "u", "h", "y", "d_u", "d_w_gate"} | inner | operands | FIRST_BIASES
    assert {p.stage for p in found[1].pairs} >= {"s", "h", "y"} | inner | operands
    # A step of the backward is held against each runner's own; an unfused one shows no d_s.
    backward = {(p.a, p.b) for p in first.pairs if p.stage == "d_s"}
    assert backward == {
        ("jaxfused", "torchfused"), ("jaxfused", "oracle"), ("torchfused", "oracle"),
        ("jaxfused", "oracle_step"), ("torchfused", "oracle_step"),
    }  # fmt: skip
    assert {p.comparison.verdict for p in found[2].pairs} == {"BIT_EQUAL"}
    assert found[3].pairs == []


@pytest.mark.parametrize(
    "mutant", ["dropped_k_tail", "bias_up_skipped", "wrong_gelu", "h_not_rounded", "tiles_swapped"]
)
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_mutant_in_a_worker_fails_its_case(mutant, dtype):
    case = build("gelu_tanh", SHAPES["ragged"], dtype, biases="ud")
    (found,), _ = outcomes([case], mutant)
    assert found.status == FAILED
    assert "comparisons are below what the case demands" in found.reason


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("crash@gelu_tanh", "the torch worker was ended by SIGABRT; the end of its stderr:"),
        ("hang@gelu_tanh", "the torch worker did not answer within 3 s"),
        ("memory@gelu_tanh", "torchfused on the torch worker: Traceback"),
        ("raise@gelu_tanh", "ValueError: this runner cannot"),
    ],
)
def test_one_accident_is_one_error(fault, text):
    found, _ = outcomes(CASES, fault, seconds=3.0)
    assert [outcome.status for outcome in found] == [PASSED, ERROR, PASSED]
    assert text in found[1].reason


def test_a_worker_that_cannot_start_is_given_up_soon():
    started = time.monotonic()
    found, _ = outcomes(CASES * 5, "will_not_start")
    assert {outcome.status for outcome in found} == {ERROR}
    assert all("RuntimeError: no such device" in outcome.reason for outcome in found)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("lost_bit", "w_down arrived in torch with other bytes than were sent"),
        ("other_plan", "the twins ran different plans"),
        ("other_tiles", "the twins ran different plans"),
    ],
)
def test_what_makes_a_comparison_worthless_fails(fault, text):
    found, _ = outcomes(CASES[:1], fault)
    assert found[0].status == FAILED
    assert text in found[0].reason


def test_each_twin_has_tiles_of_its_own_on_the_hopper_backend():
    found = []
    device = Device(kind="gpu", name="H200", sm_count=132, smem_bytes=232448, capability=(9, 0))
    where = Where(device=device, workers=workers("other_tiles"))
    run([build("relu", (24, 32, 40, 16), "bf16", plan="tiled-hopper")], where, found.append)
    assert [outcome.status for outcome in found] == [PASSED], found[0].reason
    assert found[0].plan == "tiled/hopper and tiled/hopper up 16x16x64 down None"


def test_a_skipped_case_says_why():
    found, _ = outcomes([build("silu", SHAPES["ragged"], "bf16")])
    assert found[0].status == SKIPPED
    assert "bfloat16" in found[0].reason


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen = []

    def interrupt(outcome):
        seen.append(outcome)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(CASES, Where(device=Device(kind="interpreter"), workers=workers()), interrupt)
    assert len(seen) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_worker_restarts_after_it_was_killed():
    worker = Worker(workers()[0])
    try:
        worker.greet()
        assert worker._process
        worker._process.kill()
        with pytest.raises(WorkerError, match="ended by SIGKILL"):
            worker.receive(10)
        worker.greet()
        assert worker.hello["device"] == "numpy"
    finally:
        worker.close()

"""The tuner's worker without its GPU: which launches it makes, what it compiles and times."""

from dataclasses import replace
from functools import partial
from itertools import cycle

import jax
import pytest
from asked_jax import launches
from jax import numpy as jnp

from bench import timer_jax, tuner_jax
from bench.tune import trials
from bench.workloads import Case, suite
from parity.contract.hopper_tiles import Work
from parity.contract.problem import Device, smem_of

H100 = Device(
    kind="gpu", name="a made-up H100", sm_count=132, smem_bytes=smem_of((9, 0)), capability=(9, 0), library="xla"
)  # fmt: skip
CASES = [Case(workload=name, m=40, mode="forward_backward") for name in ("tiny", "tiny_gated")]


@pytest.fixture
def tuner(monkeypatch):
    """One whose GPU is this CPU, and whose launches add their first operand up."""
    monkeypatch.setattr(
        tuner_jax, "launch", lambda trial, tiling, device, given: {"y": jax.tree.leaves(given)[0].sum()}
    )
    made = object.__new__(tuner_jax.JaxTuner)
    made._device, made._compiled = H100, {}
    return made


def test_it_wants_a_gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    with pytest.raises(RuntimeError, match="JAX sees no GPU: its backend is cpu"):
        tuner_jax.JaxTuner()


def test_it_launches_what_it_is_told(monkeypatch):
    asked = launches(monkeypatch)
    for trial in trials(CASES, H100):
        given = jax.eval_shape(partial(tuner_jax.operands, trial), jax.random.key(0))
        for tiling in trial.tilings:
            found = jax.eval_shape(partial(tuner_jax.launch, trial, tiling, H100), given)
            assert asked.pop() == (trial.work, tiling)
            assert {t.shape for t in found.values()} == {(trial.work.rows, trial.work.outer)}
    assert asked == []


def test_only_tiles_that_may_be_fast_are_tried():
    listed = trials(suite("tune"), H100)
    wide = next(trial for trial in listed if trial.work.kind == "linear" and trial.work.rows == 4096)
    assert {tiling.tiles.n for tiling in wide.tilings} == {128, 256}
    assert all(trial.tilings for trial in listed)


def test_a_chain_is_long_enough():
    assert tuner_jax.length(Work(kind="linear", rows=16384, outer=16384, inner=4096)) == tuner_jax.FEWEST
    assert tuner_jax.length(Work(kind="linear", rows=128, outer=4096, inner=4096)) == tuner_jax.MOST
    # Two weights are two products, and so are two operands' sums; a gated gradient's is one.
    one = Work(kind="linear", rows=1024, outer=4096, inner=16384)
    kinds = {"linear": False, "activated": True, "input_bwd": True, "hidden_bwd": True}
    lengths = [tuner_jax.length(replace(one, kind=kind, gated=gated)) for kind, gated in kinds.items()]
    assert lengths == [10, 5, 5, 10]


def test_every_tiling_is_compiled_once_and_has_its_median(tuner, monkeypatch):
    listed = trials(CASES, H100)
    told = tuner.compile(trials=[trial.to_json() for trial in listed], seconds=60.0)
    assert told["launches"] == told["compiled"] == len(tuner._compiled) == sum(len(trial.tilings) for trial in listed)
    assert told["error"] == ""
    samples = {str(tiling): cycle([3.0, float(str(tiling)[-1]), 9.0]) for tiling in listed[0].tilings}
    monkeypatch.setattr(timer_jax.Program, "wall_sample", lambda program: next(samples[program.key]))
    said = []
    found = tuner.measure(trial=listed[0].to_json(), emit=said.append)
    assert found["us"] == {key: max(3.0, float(key[-1])) for key in samples}
    assert said == ["compiling", *samples, "timing"]
    # Of what has been measured nothing is held.
    assert {trial for trial, _ in tuner._compiled} == {*listed[1:]}


def test_what_does_not_compile_is_told(tuner, monkeypatch):
    def launch(trial, tiling, device, given):
        raise RuntimeError(f"no {trial.work.kind}")

    monkeypatch.setattr(tuner_jax, "launch", launch)
    told = tuner.compile(trials=[trials(CASES, H100)[0].to_json()], seconds=60.0)
    assert told["compiled"] == 0
    assert told["error"] == "RuntimeError: no activated"


def test_a_tiling_of_other_bits_is_not_timed(tuner, monkeypatch):
    trial = trials([Case(workload="tiny", m=300)], H100)[0]
    monkeypatch.setattr(
        tuner_jax, "launch", lambda trial, tiling, device, given: jnp.float32(tiling == trial.tilings[1])
    )
    with pytest.raises(
        RuntimeError, match=f"activated 300x64x32: {trial.tilings[1]} gives other bits than {trial.tilings[0]}"
    ):
        tuner.measure(trial=trial.to_json(), emit=lambda _: None)

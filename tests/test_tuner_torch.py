"""The tuner's worker without its GPU: which launches it makes, which binaries it compiles, what it times."""

import time
from collections.abc import Iterator
from itertools import cycle
from types import SimpleNamespace

import pytest
import torch
from asked_torch import launches

from bench import compiling, timer_torch, tuner_torch
from bench.tune import trials
from bench.workloads import Case, suite
from parity.contract.problem import Device, smem_of

H100 = Device(kind="gpu", name="a made-up H100", sm_count=132, smem_bytes=smem_of((9, 0)), capability=(9, 0))
CASES = [Case(workload=name, m=40, mode="forward_backward") for name in ("tiny", "tiny_gated")]


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setattr(tuner_torch, "device_of", lambda t: H100)
    return launches(monkeypatch)


@pytest.fixture
def tuner(monkeypatch):
    """One whose GPU is this CPU."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(L2_cache_size=1024))
    for name in ("empty_cache", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(
        timer_torch.Program, "capture", lambda program: setattr(program, "output", program.step())
    )  # fmt: skip
    turns: dict[str, Iterator[float]] = {}

    def sample(program):
        return next(turns.setdefault(program.key, cycle([3.0, float(program.key[-1]), 9.0])))

    monkeypatch.setattr(timer_torch.Program, "kernel_sample", sample)
    made = object.__new__(tuner_torch.TorchTuner)
    made._device = torch.device("cpu")
    return made


def test_it_launches_what_it_is_told(asked):
    for trial in trials(CASES, H100):
        chain = [tuner_torch.operands(trial, torch.device("cpu")) for _ in range(2)]
        assert tuner_torch.size_of(chain[0]) >= 2 * (trial.work.rows + trial.work.outer) * trial.work.inner
        for tiling in trial.tilings:
            found = tuner_torch.launch(trial, tiling, chain)
            assert asked == [(trial.work, tiling)] * 2
            assert {tuple(t.shape) for t in found} == {(trial.work.rows, trial.work.outer)}
            asked.clear()


def test_a_binary_is_compiled_once():
    listed = trials(suite("tune"), H100)
    found = tuner_torch.variants(listed)
    assert len(found) < sum(len(trial.tilings) for trial in listed) / 20
    assert {(o.work.kind, o.work.gated, o.activation, o.biases, t.tiles) for o in listed for t in o.tilings} == {
        (o.work.kind, o.work.gated, o.activation, o.biases, t.tiles) for o in found for t in o.tilings
    }


def test_binaries_are_compiled_by_launching(asked, tuner):
    listed = trials(CASES, H100)
    told = tuner.compile(trials=[trial.to_json() for trial in listed], seconds=60.0)
    assert told["launches"] == told["compiled"] == len(asked) == len(tuner_torch.variants(listed))
    assert {tiling.tiles for _, tiling in asked} == {tiling.tiles for trial in listed for tiling in trial.tilings}


def test_what_was_begun_is_compiled_before_anything_is_measured(tuner, monkeypatch):
    """However little time there is; what was not begun never is."""
    begun, done = [], []

    def launch(trial, tiling, chain):
        begun.append(trial)
        # Long enough that the time is over first.
        time.sleep(0.2)
        done.append(trial)
        return []

    monkeypatch.setattr(tuner_torch, "launch", launch)
    monkeypatch.setattr(compiling.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(tuner_torch, "operands", lambda trial, device: {})
    told = tuner.compile(trials=[trial.to_json() for trial in trials(CASES, H100)], seconds=0.05)
    assert len(begun) == len(done) == told["compiled"] == 2
    assert told["launches"] > 2
    assert told["error"] == ""


def test_what_does_not_compile_is_told(tuner, monkeypatch):
    listed = trials(CASES, H100)
    failing = [tuner_torch.variants(listed)[i] for i in (1, 3)]

    def launch(trial, tiling, chain):
        if trial in failing:
            raise RuntimeError(f"no {trial.work.kind}")

    monkeypatch.setattr(tuner_torch, "launch", launch)
    told = tuner.compile(trials=[trial.to_json() for trial in listed], seconds=60.0)
    assert told["launches"] - told["compiled"] == 2
    assert told["error"] == f"RuntimeError: no {failing[0].work.kind}"


def test_every_tiling_has_its_median(asked, tuner, monkeypatch):
    monkeypatch.setattr(tuner_torch, "launch", lambda trial, tiling, chain: [torch.ones(2)])
    trial, said = trials(CASES, H100)[0], []
    found = tuner.measure(trial=trial.to_json(), emit=said.append)
    assert found["us"] == {str(tiling): max(3.0, float(str(tiling)[-1])) for tiling in trial.tilings}
    assert said == [*map(str, trial.tilings), "timing"]


def test_a_tiling_of_other_bits_is_not_timed(asked, tuner, monkeypatch):
    trial = trials(CASES, H100)[0]
    monkeypatch.setattr(
        tuner_torch, "launch", lambda trial, tiling, chain: [torch.tensor(float(tiling == trial.tilings[1]))]
    )
    with pytest.raises(
        RuntimeError, match=f"activated 40x64x32: {trial.tilings[1]} gives other bits than {trial.tilings[0]}"
    ):
        tuner.measure(trial=trial.to_json(), emit=lambda _: None)

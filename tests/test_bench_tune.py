"""The tuner: what is measured and in which order, how a table grows, and the command line over made-up times."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import tiles
from bench.run import Unfit
from bench.tune import SLACK, Settings, Trial, Tune, cases_of, trials
from bench.tuner_fake import DEVICE
from bench.workloads import suite, workloads
from parity.contract import hopper_table
from parity.contract.hopper_tiles import Tiling, Work, candidates, modelled
from parity.contract.problem import Device

ROOT = Path(__file__).parents[1]
H100 = Device(kind="gpu", name="a made-up H100", sm_count=132, smem_bytes=232448, capability=(9, 0))
UP = Work(kind="activated", rows=128, outer=4096, inner=4096)
CASES = ("--case", "article/128", "--case", "llama3_8b/256")
# Of article: both forward launches, the hidden layer's gradient, the input's and all weights'. Of llama3_8b, whose
# hidden layer has other sizes, two weights'.
COUNT = 5 + 6


def tune(path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "tune", "--device", "fake", "--json", str(path), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def measured(path: Path) -> dict[Work, dict[Tiling, float]]:
    return hopper_table.parse(json.loads(path.read_text()))[DEVICE.name, DEVICE.sm_count, DEVICE.library]


def test_every_tiling_of_every_launch_is_measured(tmp_path):
    path = tmp_path / "tiles.json"
    answer = tune(path, *CASES)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    found = measured(path)
    assert len(found) == COUNT
    for work, us in found.items():
        assert set(us) == set(candidates(work, DEVICE))
        assert list(us.values()) == sorted(us.values())
        assert all(time > 0 for time in us.values())
    assert hopper_table.faults(hopper_table.parse(json.loads(path.read_text()))) == []
    (chip,) = json.loads(path.read_text())["devices"]
    ((date, about),) = chip["runs"].items()
    assert set(about) == {"driver", "versions", "commit"}
    assert {entry["run"] for entry in chip["measured"]} == {date}
    assert f"[{COUNT}/{COUNT}]" in answer.stdout
    assert f"the model's {modelled(UP, DEVICE)}" in answer.stdout


def test_each_twin_has_a_table_of_its_own(tmp_path):
    path = tmp_path / "tiles.json"
    for framework in ("torch", "jax"):
        assert tune(path, "--case", "article/4096", "--framework", framework).returncode == 0
    table = hopper_table.parse(json.loads(path.read_text()))
    assert {library for _, _, library in table} == {"torch", "xla"}
    for (_, _, library), found in table.items():
        device = replace(DEVICE, library=library)
        assert all(set(us) == set(candidates(work, device, SLACK[library])) for work, us in found.items())
    # Whose every tiling is compiled, fewer.
    assert sum(map(len, table[DEVICE.name, 132, "xla"].values())) < sum(
        map(len, table[DEVICE.name, 132, "torch"].values())
    )
    assert "neither torch nor jax" in tune(path, "--framework", "tensorflow").stderr


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_a_framework_has_its_tuner(framework, tmp_path):
    settings = Settings(device="cuda", framework=framework, cases=(), path=tmp_path / "tiles.json")
    assert f"bench.tuner_{framework}" in Tune(settings, print)._worker._command


def test_what_did_not_compile_is_said(tmp_path):
    answer = tune(tmp_path / "tiles.json", *CASES, BENCH_FAKE_UNCOMPILED="OutOfResources: shared memory")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert f"compile: {COUNT} launches, 0 compiled, 0 seconds; OutOfResources: shared memory" in answer.stdout


def test_missing_goes_on_where_the_time_was_used_up(tmp_path):
    path = tmp_path / "tiles.json"
    answer = tune(path, *CASES, "--budget-seconds", "3", BENCH_FAKE_PAUSE="0.7")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "the time is used up" in answer.stdout
    some = measured(path)
    assert 1 <= len(some) < COUNT
    # The forward launches of all cases come first.
    assert {work.kind for work in some} <= {"linear", "activated"}
    assert tune(path, *CASES, "--missing").returncode == 0
    assert len(measured(path)) == COUNT
    assert some.items() <= measured(path).items()
    assert "[1/" not in tune(path, *CASES, "--missing").stdout


def test_a_launch_that_kills_its_worker_is_named_and_the_rest_measured(tmp_path):
    path = tmp_path / "tiles.json"
    answer = tune(path, *CASES, BENCH_FAKE_CRASH=f"{UP}|{modelled(UP, DEVICE)}")
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert f"{UP}: {modelled(UP, DEVICE)} the process ended with status 3" in answer.stdout
    assert "1 launches could not be measured" in answer.stdout
    assert len(measured(path)) == COUNT - 1
    assert UP not in measured(path)


def test_a_table_with_tiles_that_cannot_be_is_not_extended(tmp_path):
    path = tmp_path / "tiles.json"
    table = tiles.TileFile(path=path)
    table.merge(H100, "2026-11-26", {}, UP, {Tiling.parse("128x512x64/16"): 1.0})
    table.save()
    before = path.read_text()
    answer = tune(path, *CASES)
    assert answer.returncode == 2
    assert "has tiles that cannot be: a made-up H100" in " ".join(answer.stdout.split())
    assert path.read_text() == before


def test_no_gpu_is_a_clear_message(tmp_path):
    path = tmp_path / "tiles.json"
    command = [sys.executable, "-m", "bench", "tune", "--json", str(path)]
    answer = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True
    )
    if answer.returncode == 0:
        pytest.skip("this machine has a GPU")
    assert answer.returncode == 2
    assert "no NVIDIA GPU" in answer.stdout
    assert not path.exists()


def test_a_merge_replaces_a_launch_and_leaves_the_others(tmp_path):
    path, fast, slow = tmp_path / "tiles.json", Tiling.parse("128x128x64/16"), Tiling.parse("128x256x64/8")
    down = Work(kind="linear", rows=128, outer=4096, inner=4096)
    table = tiles.load(path)
    table.merge(H100, "first", {"commit": "a"}, UP, {slow: 3.0, fast: 2.0})
    table.merge(DEVICE, "first", {"commit": "a"}, UP, {slow: 5.0})
    table.save()
    table = tiles.load(path)
    assert table.known(H100) == {UP}
    table.merge(H100, "second", {"commit": "b"}, down, {fast: 1.0})
    assert list(table.of(H100)["runs"]) == ["first", "second"]
    table.merge(H100, "second", {"commit": "b"}, UP, {fast: 4.0, slow: 3.5})
    table.save()
    found = hopper_table.parse(json.loads(path.read_text()))
    assert found[H100.name, 132, "torch"] == {UP: {slow: 3.5, fast: 4.0}, down: {fast: 1.0}}
    assert list(found[H100.name, 132, "torch"][UP]) == [slow, fast]
    assert found[DEVICE.name, 132, "torch"] == {UP: {slow: 5.0}}
    # Nothing of the first run is left.
    assert tiles.load(path).of(H100)["runs"] == {"second": {"commit": "b"}}


def test_a_table_is_written_as_it_was_read(tmp_path):
    for source in (hopper_table.FILE, ROOT / "none.json"):
        table = tiles.load(source)
        table.path = tmp_path / "copy.json"
        # A device of which nothing was measured is none.
        table.of(H100)
        table.save()
        if source.exists():
            assert table.path.read_text() == source.read_text()
        assert json.loads(table.path.read_text())["schema"] == hopper_table.SCHEMA


def test_launches_of_several_cases_are_measured_once():
    found = trials(suite("tune"), H100)
    assert len({trial.work for trial in found}) == len(found)
    assert {trial.work.rows for trial in found if trial.work.kind == "linear"} == {2**i for i in range(7, 15)}
    # The largest models' forward passes first.
    assert [trial.work.kind for trial in found[:2]] == ["activated", "linear"]
    assert found[0].work == Work(kind="activated", rows=4096, outer=14336, inner=4096, gated=True)
    assert (found[0].activation, found[1].activation) == ("silu", "identity")
    assert all(trial.tilings for trial in found)
    for trial in found:
        assert Trial.from_json(json.loads(json.dumps(trial.to_json()))) == trial


def test_cases_of_the_callers():
    found = cases_of(["llama3_8b/4096", "article/128"])
    assert [(case.workload, case.m, case.mode) for case in found] == [
        ("llama3_8b", 4096, "forward"),
        ("article", 128, "forward"),
        ("llama3_8b", 4096, "forward_backward"),
        ("article", 128, "forward_backward"),
    ]
    assert cases_of([]) == suite("tune")
    assert {case.workload for case in suite("tune")} <= set(workloads())


@pytest.mark.parametrize("text", ["llama3_8b", "llama3_8b/", "llama3_8b/0", "llama3_8b/-1", "llama4/1", ""])
def test_what_is_no_case(text):
    with pytest.raises(Unfit, match="must be a workload and its rows, such as llama3_8b/4096; of article, "):
        cases_of([text])

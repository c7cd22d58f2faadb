"""The command line, driven over made-up times: no GPU, no framework."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import check, results

ROOT = Path(__file__).parents[1]


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quick") / "quick.json"
    answer = bench("run", "--device", "fake", "--quick", "--json", str(path))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return path


def test_run_writes_every_case_with_every_contender(quick):
    found = results.load(quick)
    assert len(found.finished) == 12
    assert found.whole == found.finished
    contenders = {r["contender"] for r in found.rows}
    assert contenders >= {"torch.eager", "torch.eager_graph", "torchfused", "jaxfused", "xla", "xla_cublaslt"}
    assert {
        "framework": "torch",
        "contender": "liger",
        "reason": "cannot import liger_kernel.ops: made up",
    } in found.absent


def test_rows_have_the_stated_fields(quick):
    row = next(r for r in results.load(quick).rows if r["contender"] == "torchfused")
    stated = "workload m dtype mode framework contender plan graphed kernel_us wall_us launches hbm_bytes power_w"
    assert {*stated.split(), "stream_us", "gemm_us", "correct"} <= set(row)
    assert {"median", "low", "high"} <= set(row["kernel_us"])
    assert row["kernel_us"]["low"] <= row["kernel_us"]["median"] <= row["kernel_us"]["high"]
    assert row["graphed"] is True


def test_environment_names_gpu_versions_commit_and_date(quick):
    assert {"gpu", "driver", "versions", "commit", "date"} <= set(results.load(quick).environment)


def test_twins_in_one_run_are_the_same_and_a_planted_slowdown_is_not(quick):
    from parity.statistics import compare

    for key in results.load(quick).finished:
        rows = {r["contender"]: r for r in results.load(quick).rows if r["case"] == key}
        a, again, slow = (
            [[b] for b in rows[n]["kernel_us"]["blocks"]] for n in ("fake.a", "fake.a_again", "fake.slower_3_percent")
        )
        assert compare(a, slow).verdict != "SAME"
        assert compare(a, again).verdict in ("SAME", "UNCLEAR")


def test_only_chooses_cases_and_contenders(tmp_path):
    path = tmp_path / "only.json"
    words = ("--only", "article/1/", "--only", "fused")
    assert bench("run", "--device", "fake", "--json", str(path), *words).returncode == 0
    found = results.load(path)
    assert {r["workload"] for r in found.rows} == {"article"}
    assert all("fused" in r["contender"] for r in found.rows)
    assert all(r["stream_us"] for r in found.rows)
    assert found.finished
    assert found.whole == set()


def test_a_case_that_is_not_there_chooses_no_contenders(tmp_path):
    path = tmp_path / "none.json"
    answer = bench("run", "--device", "fake", "--json", str(path), "--only", "article/1/", "--only", "article/5/")
    assert answer.returncode == 2
    assert "no case has article/5/ in its name" in answer.stdout


@pytest.mark.parametrize("choice", [("--light",), ("--frameworks", "jax")])
def test_a_run_without_every_contender_is_marked(tmp_path, choice):
    path = tmp_path / "part.json"
    assert bench("run", "--device", "fake", "--json", str(path), "--only", "narrow_64", *choice).returncode == 0
    found = results.load(path)
    assert found.finished
    assert found.whole == set()


def test_the_report_of_another_gpu_leaves_readme(quick, tmp_path):
    body = json.loads(quick.read_text())
    readme, block = tmp_path / "README.md", "<!-- bench:headline -->\n<!-- /bench:headline -->\n"
    readme.write_text(block)
    for gpu, count in (("h200", 12), ("h100", 1)):
        path = tmp_path / gpu / "run.json"
        path.parent.mkdir()
        path.write_text(json.dumps({**body, "cases": body["cases"][:count]}))
    told = ("--results", str(tmp_path), "--readme", str(readme))
    assert bench("report", "--gpu", "h100", *told).returncode == 0
    assert (tmp_path / "h100" / "report" / "index.html").exists()
    assert readme.read_text() == block
    assert bench("report", *told).returncode == 0
    assert readme.read_text() != block
    assert bench("report", "--check", *told).returncode == 0


def test_interrupt_keeps_finished_cases_and_resume_adds_the_rest(tmp_path):
    path = tmp_path / "stopped.json"
    command = [sys.executable, "-m", "bench", "run", "--device", "fake", "--quick", "--json", str(path)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "BENCH_FAKE_PAUSE": "0.15"}, text=True)
    until = time.monotonic() + 60
    while time.monotonic() < until and not (path.exists() and len(results.load(path).cases) >= 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    stopped = results.load(path)
    assert 2 <= len(stopped.cases) < 12
    assert bench("run", "--device", "fake", "--quick", "--json", str(path)).returncode == 0
    resumed = results.load(path)
    assert len(resumed.cases) == 12
    assert resumed.rows[: len(stopped.rows)] == stopped.rows
    keys = [(r["case"], r["contender"], r["plan"]) for r in resumed.rows]
    assert len(keys) == len(set(keys))


def test_budget_stops_before_a_case_and_leaves_the_first(tmp_path):
    path = tmp_path / "budget.json"
    answer = bench("run", "--device", "fake", "--json", str(path), "--budget-seconds", "8", BENCH_FAKE_PAUSE="0.3")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    found = results.load(path)
    assert found.cases[0]["key"] == "article/1/bf16/forward/cold"
    assert len(found.cases) < 60
    assert "the time is used up" in answer.stdout


def test_a_contender_that_kills_its_worker_is_left_out_and_named(tmp_path):
    path = tmp_path / "crash.json"
    words = ("--only", "article/1/bf16/forward/cold")
    answer = bench("run", "--device", "fake", "--json", str(path), *words, BENCH_FAKE_CRASH="torchfused|tiled/portable")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    found = results.load(path)
    plans = {r["plan"] for r in found.rows if r["contender"] == "torchfused"}
    assert "auto" in plans
    assert "tiled/portable" not in plans
    problem = next(p for p in found.problems if p["plan"] == "tiled/portable")
    assert "ended with status 3" in problem["reason"]


def test_a_wrong_contender_is_reported_and_not_timed(tmp_path):
    path = tmp_path / "wrong.json"
    words = ("--only", "article/1/bf16/forward/cold")
    assert (
        bench("run", "--device", "fake", "--json", str(path), *words, BENCH_FAKE_WRONG="torch.compile|").returncode == 0
    )
    row = next(r for r in results.load(path).rows if r["contender"] == "torch.compile")
    assert row["correct"] is False
    assert row["kernel_us"] is None
    assert bench("report", "--json", str(path), "--readme", str(tmp_path / "none.md")).returncode == 0


def test_no_gpu_is_a_clear_message_and_exit_code_2(tmp_path):
    answer = bench("run", "--json", str(tmp_path / "x.json"), PATH=str(tmp_path), CUDA_VISIBLE_DEVICES="")
    if answer.returncode == 0:
        pytest.skip("this machine has a GPU")
    assert answer.returncode == 2
    assert "no NVIDIA GPU" in answer.stdout


def test_report_and_claims_work_without_gpu_and_without_results(tmp_path):
    for command in ("report", "claims"):
        answer = bench(command, "--results", str(tmp_path))
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert "no results yet" in answer.stdout


def test_check_exits_1_where_a_goal_is_missed(quick, tmp_path):
    goal = {"name": "g", "workload": "article", "m": 1, "against": "stream", "ours": ["torchfused"]}
    for limit, code in ((2.0, 0), (1.0, 1)):
        goals = tmp_path / f"{limit}.json"
        goals.write_text(json.dumps({"schema": 1, "goals": [{**goal, "at_most": limit}]}))
        answer = bench("check", str(goals), "--json", str(quick))
        assert answer.returncode == code, answer.stdout
    assert "MISSED" in answer.stdout


def test_committed_goals_can_be_read():
    goals = check.read(ROOT / "bench" / "goals.json")
    assert len(goals) > 50
    assert all(("at_most" in g) != ("at_least" in g) for g in goals)


@pytest.mark.parametrize(
    ("goal", "said"),
    [({"name": "x"}, "at_most"), ({"name": "x", "at_most": 1}, "lacks against")],
)
def test_a_goal_that_says_too_little_is_named(tmp_path, goal, said):
    path = tmp_path / "goals.json"
    path.write_text(json.dumps({"schema": 1, "goals": [goal]}))
    with pytest.raises(ValueError, match=said):
        check.read(path)


def test_best_other_looks_in_its_own_framework(quick):
    rows = results.load(quick).rows
    goal = {"name": "g", "workload": "article", "m": 1, "against": "best_other", "at_least": 1.0}
    outcomes = check.check([goal], rows)
    assert "torch." in outcomes[0].why
    assert "xla" in outcomes[1].why


def test_a_file_of_another_machine_is_not_gone_on_with(quick, tmp_path):
    copy = tmp_path / "copy.json"
    body = json.loads(quick.read_text())
    body["environment"]["gpu"] = "NVIDIA H100"
    copy.write_text(json.dumps(body))
    answer = bench("run", "--device", "fake", "--json", str(copy))
    assert answer.returncode == 2
    assert "never mixed" in answer.stdout


def test_latest_takes_each_case_whole_from_the_newest_run(quick):
    old, new = results.load(quick), results.load(quick)
    new.environment = {**new.environment, "date": "2999"}
    key = old.cases[0]["key"]
    new.cases = [c for c in new.cases if c["key"] == key]
    new.rows = [r for r in new.rows if r["case"] == key][:3]
    merged = results.latest([old, new])
    assert merged is not None
    assert len([r for r in merged.rows if r["case"] == key]) == 3
    assert merged.finished == old.finished


def test_folder_of_a_gpu():
    assert results.folder_of("NVIDIA H200") == "h200"
    assert results.folder_of("NVIDIA H100 80GB HBM3") == "h100"

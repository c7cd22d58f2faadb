"""Several result files as one: which row groups lead, which stand beside, and that no ratio mixes two runs."""

import json
from pathlib import Path

import pytest

from bench import check, readme
from bench.results import Results, committed, latest, load
from bench.workloads import Case

CASE = Case(workload="llama3_8b", m=4096)
GOAL = {"name": "g", "workload": CASE.workload, "m": CASE.m, "against": "best_other", "at_least": 1.0}
FRAMEWORKS = {"xla": "jax", "jaxfused": "jax", "tokamax": "jax", "torch.eager_graph": "torch", "torchfused": "torch"}
WHOLE = {"torch.eager_graph": 100.0, "torchfused": 100.0, "xla": 100.0, "jaxfused": 90.0}


def write(path: Path, times: dict[str, float], *, day: int, chosen: bool = False, case: Case = CASE) -> Path:
    rows = [
        {"case": case.key, "workload": case.workload, "m": case.m, "dtype": case.dtype, "mode": case.mode}
        | {
            "cache": case.cache,
            "framework": FRAMEWORKS[name],
            "contender": name,
            "correct": True,
            "roof_fraction": None,
        }
        | {"plan": "auto" if name.endswith("fused") else "", "kernel_us": {"median": us}}
        for name, us in times.items()
    ]
    place = {"gpu": path.parent.name, "date": f"2026-01-0{day}", "versions": {}, "commit": "c"}
    entry = {"key": case.key} | ({"chosen": True} if chosen else {})
    Results(path=path, environment=place, rows=rows, cases=[entry]).save()
    return path


def merged(*paths: Path) -> Results:
    found = latest([load(p) for p in paths])
    assert found is not None
    return found


def names(run: Results) -> set[str]:
    return {r["contender"] for r in run.rows}


@pytest.fixture
def whole(tmp_path) -> Path:
    return write(tmp_path / "h200" / "1.json", WHOLE, day=1)


@pytest.fixture
def chosen(tmp_path) -> Path:
    times = {"xla": 200.0, "jaxfused": 170.0, "tokamax": 160.0}
    return write(tmp_path / "h200" / "2.json", times, day=2, chosen=True)


def test_chosen_contenders_only_add(whole, chosen):
    found = merged(whole, chosen)
    assert found.rows == load(whole).rows
    assert [r.rows for r in found.beside] == [load(chosen).rows]
    assert found.environment["date"] == "2026-01-01"


def test_a_later_whole_run_takes_the_place_of_both(whole, chosen, tmp_path):
    newest = write(tmp_path / "h200" / "3.json", WHOLE, day=3)
    found = merged(whole, chosen, newest)
    assert found.rows == load(newest).rows
    assert found.beside == []
    assert found.environment["date"] == "2026-01-03"


def test_chosen_contenders_take_the_place_of_a_run_that_has_no_others(whole, chosen, tmp_path):
    newest = write(tmp_path / "h200" / "3.json", WHOLE, day=3, chosen=True)
    found = merged(whole, chosen, newest)
    assert found.rows == load(newest).rows
    assert [names(r) for r in found.beside] == [{"xla", "jaxfused", "tokamax"}]


def test_the_same_choice_again_takes_the_place_of_the_first(whole, chosen, tmp_path):
    times = {"xla": 200.0, "jaxfused": 150.0, "tokamax": 160.0}
    newest = write(tmp_path / "h200" / "3.json", times, day=3, chosen=True)
    assert [r.path for r in merged(whole, chosen, newest).beside] == [newest]


def test_chosen_contenders_lead_where_there_is_nothing_else(chosen):
    found = merged(chosen)
    assert found.rows == load(chosen).rows
    assert found.environment["date"] == "2026-01-02"
    assert found.whole == set()


def test_no_ratio_mixes_two_runs(whole, chosen):
    """jaxfused at 90 in one run and tokamax at 160 in another is no speed-up of 1.78."""
    found = merged(whole, chosen)
    line = readme.peers(found).splitlines()[-1]
    assert [c.strip() for c in line.split("|")][4:-1] == ["tokamax", "200.0", "160.0", "**170.0**", "1.06"]
    assert "| 100.0 | **90.0** |" in readme.headline(found)
    goal = GOAL | {"ours": ["jaxfused"]}
    assert check.check([goal], found.rows)[0].verdict == "REACHED"
    outcome = check.check([goal], found.rows, *(r.rows for r in found.beside))[0]
    assert (outcome.verdict, round(outcome.ratio or 0, 3)) == ("MISSED", 0.941)
    assert outcome.why == "170.0 us against 160.0 us (tokamax)"


def test_another_gpus_few_cases_do_not_become_readmes(whole, tmp_path):
    write(tmp_path / "h200" / "2.json", WHOLE, day=2, case=Case(workload="article", m=1))
    other = write(tmp_path / "h100" / "3.json", WHOLE, day=3)
    assert {r.environment["gpu"] for r in committed(tmp_path)} == {"h200"}
    assert [r.path for r in committed(tmp_path, "h100")] == [other]


def test_a_file_without_the_mark_is_whole(whole):
    assert "chosen" not in json.loads(whole.read_text())["cases"][0]
    assert load(whole).whole == {CASE.key}

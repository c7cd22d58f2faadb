import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest
from emulation import emulate
from rich.console import Console

from parity import stimulus
from parity.cases import SHAPES, build
from parity.judge import judge, prepare
from parity.junit import to_junit
from parity.report import SCHEMA, check_writable, environment, report, to_json, write_atomically
from parity.run import ERROR, FAILED, PASSED, SKIPPED, Outcome
from parity.table import print_table


def judged(mutant=""):
    case = build("silu", SHAPES["ragged"], "fp16", gated=True, biases="ugd")
    arrays = stimulus.generate(case.problem, "normal", 1)
    results = {"jaxfused": emulate(case.problem, arrays), "torchfused": emulate(case.problem, arrays, mutant)}
    return case, judge(case, prepare(case, arrays), results, "ieee")


@pytest.fixture(scope="module")
def outcomes():
    case, good = judged()
    _, bad = judged("rows_swapped")
    other = build("tanh", SHAPES["one-row"])
    return [
        Outcome(case=case, status=PASSED, pairs=good, plan="tiled", seconds=1.5),
        Outcome(case=case, status=FAILED, pairs=bad, reason="3 of 9 comparisons are below WITHIN_STAT"),
        Outcome(case=other, status=ERROR, reason="the torch worker ended\n\x1b[31mstderr [bold]"),
        Outcome(case=other, status=SKIPPED, reason="not here"),
    ]


def test_a_machine_is_its_system_and_architecture():
    """No host's kernel build: that says nothing of a result, and much of who measured it."""
    named = {environment("cpu", None)["machine"]}
    for path in (Path(__file__).parents[1] / "bench/results").rglob("*.json"):
        about = json.loads(path.read_text()).get("environment", {})
        named |= {about["machine"]} if "machine" in about else set()
    assert all(re.fullmatch(r"(\w+ )?\w+", name) for name in named), named


def test_json(outcomes):
    content = json.loads(to_json(report(environment("cpu", None), outcomes, suite="smoke", planned=5)))
    assert content["schema"] == SCHEMA
    assert content["summary"] == {"passed": 1, "failed": 1, "errors": 1, "skipped": 1, "planned": 5}
    assert content["interrupted"]
    assert {"gpu", "driver", "versions", "commit", "date", "python"} <= set(content["environment"])
    case = content["cases"][0]
    assert case["name"] == outcomes[0].case.name
    assert case["problem"] == asdict(outcomes[0].case.problem)
    assert {
        "a",
        "b",
        "stage",
        "bit_equal",
        "max_ulp",
        "p99_ulp",
        "rel_l2",
        "max_abs",
        "at",
        "bias",
        "verdict",
    } <= set(case["pairs"][0])


def test_json_is_strict():
    with pytest.raises(ValueError, match="Out of range float"):
        to_json({"value": float("nan")})


def test_junit(outcomes):
    root = ElementTree.fromstring(to_junit(outcomes, "smoke"))
    assert {k: root.get(k) for k in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4", "failures": "1", "errors": "1", "skipped": "1"
    }  # fmt: skip
    assert [[child.tag for child in case] for case in root] == [[], ["failure"], ["error"], ["skipped"]]
    assert "torchfused ~ oracle y: FAIL" in (root[1][0].text or "")


@pytest.mark.parametrize("width", [100, 80])
def test_table_fits(outcomes, width, capsys):
    print_table(outcomes, Console(width=width), 41.6)
    text = capsys.readouterr().out
    table = text.split("\n\n")[0]
    assert all(len(line) <= width for line in table.splitlines())
    assert "1 passed, 1 failed, 1 errors, 1 skipped in 42 s" in text
    assert "1 skipped: not here" in text
    assert "stderr [bold]" in text
    if width == 100:
        assert outcomes[0].case.name in text


def test_write_replaces_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_atomically(path, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_is_written_to_not_replaced():
    write_atomically(Path("/dev/null"), "text")
    assert not os.path.isfile("/dev/null")


def test_unwritable(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a directory"):
        check_writable(tmp_path)
    with pytest.raises(FileNotFoundError):
        check_writable(tmp_path / "absent" / "report.json")
    check_writable(tmp_path / "report.json")
    assert list(tmp_path.iterdir()) == []

"""The page of `parity report`, from made-up reports: nothing fetched, everything shown, what is red first."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from emulation import emulate
from typer.testing import CliRunner

from parity import stimulus
from parity.cases import SHAPES, build
from parity.cli import app
from parity.contract.plan import Plan
from parity.determinism import Battery, Check, Class
from parity.golden import Item, Prediction
from parity.golden import described as predicted
from parity.inject import Finding, Placement
from parity.judge import judge, prepare
from parity.latency import PAIRS, Row
from parity.order import GemmOrder, Probe, described
from parity.page import SCHEMAS, collect, headlines, page
from parity.report import environment, report, to_json
from parity.run import FAILED, PASSED, Outcome
from parity.statistics import compare, estimate
from parity.tokens import compare as compare_tokens
from parity.tokens_model import config
from parity.train import RUNNERS
from parity.train_model import vocabulary
from parity.tree import Tree
from parity.vendor import Recovered, Replay
from parity.vendor import described as replayed

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ROOT = Path(__file__).parents[1]
CASE = build("silu", SHAPES["ragged"], "fp16", gated=True, biases="ugd")
CHAIN = Tree.of(4, 6, {4: (0, 1), 5: (4, 2), 6: (5, 3)})
# What is no report of this version: none of it may pass for one.
STRANGE = {
    "strangers.json": '{"schema": "parity.strangers/1", "things": [{"a": 1}]}',
    "newer.json": '{"schema": "parity.run/2", "cases": []}',
    "other.json": '{"schema": "bench/1"}',
    "bare.json": '{"cases": []}',
    "odd.json": '{"schema": ["parity.run/1"]}',
    "list.json": "[1]",
    "broken.json": "{",
}


def outcome(mutant: str = "") -> Outcome:
    arrays = stimulus.generate(CASE.problem, "normal", 1)
    results = {"jaxfused": emulate(CASE.problem, arrays), "torchfused": emulate(CASE.problem, arrays, mutant)}
    pairs = judge(CASE, prepare(CASE, arrays), results, "ieee")
    return Outcome(case=CASE, status=FAILED if mutant else PASSED, reason="<b>rows</b>" * bool(mutant), pairs=pairs)


def written(folder: Path, kind: str, content: dict) -> None:
    head = {"schema": f"parity.{kind}/1", "environment": environment("cpu", None, "0" * 40)}
    (folder / f"{kind}.json").write_text(json.dumps(head | content))


def drawn() -> dict:
    """Logits of four runners, of which one is off by a little."""
    c = config("cpu", 1, 4, 0)
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((c.batch, c.steps, len(vocabulary()))).astype(np.float32)
    off = {name: logits * np.float32(1 + 2.0**-16 * (name == "eager")) for name in RUNNERS}
    depth = compare_tokens({name: {"logits": x, "tokens": x.argmax(axis=2)} for name, x in off.items()}, c)
    return {"passed": not depth["reasons"], "reasons": depth["reasons"], "depths": [depth]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reports")
    facts = environment("cpu", None, "0" * 40)
    outcomes = [outcome(), outcome("rows_swapped")]
    (path / "run.json").write_text(to_json(report(facts, outcomes, suite="smoke", planned=2)))
    probe = Probe(k=4, m=2, dtype="float32", precision="ieee", plan=Plan())
    found = [
        GemmOrder(runner="eager", gemm="up", order=CHAIN),
        GemmOrder(runner="xla", gemm="up", order=None, why="none"),
    ]
    written(path, "order", described(probe, found))
    check = {"case": CASE.name, "plan": "tiled", "runner": "jaxfused", "check": "repeat", "promised": True}
    classes = (Class(case=CASE.name, stage="y", sha256="ab" * 32, members=("jaxfused tiled", "torchfused tiled")),)
    battery = Battery(runs=4, processes=2, checks=(Check(**check, passed=True),), classes=classes)
    written(path, "determinism", battery.to_dict())
    generator = np.random.default_rng(1)
    times = {name: [list(100 + generator.standard_normal(5)) for _ in range(4)] for name in RUNNERS}
    row = Row(
        case=CASE,
        plan="tiled",
        layers=2,
        estimates={name: estimate(blocks) for name, blocks in times.items()},
        pairs={(a, b): compare(times[a], times[b]) for a, b in PAIRS},
    )
    skipped = Row(case=CASE, plan="decode", layers=2, skipped="too old a GPU")
    written(path, "latency", {"blocks": 4, "rows": [row.to_dict(), skipped.to_dict()]})
    written(path, "tokens", drawn())
    injected = Finding(stage="activation", what="h", verdict="FAIL", bit_equal=0.5, red=True, culprits=("torchfused",))
    placement = Placement(a="jaxfused", b="torchfused", findings=(injected,))
    written(path, "inject", {"case": CASE.name} | placement.to_dict())
    item = Item(problem=CASE.problem, plan=Plan())
    wrong = Prediction(item=item, runner="jaxfused", outputs={"y": 10}, wrong={"y": 1}, at={"y": [0, 0]})
    written(path, "golden", {"checks": [predicted(wrong)]})
    turn = {"knob": "order", "setting": "two chains", "changed": {"y": 5}, "total": {"y": 50}}
    portrait = {"runner": "eager", "wrong": {"s": 0, "y": 3}, "total": {"s": 20, "y": 50}}
    drift = {"portraits": [portrait], "knobs": [turn], "pairs": [{"a": "x", "b": "y", "rate": 1 / 3}]}
    head = {"schema": "parity.drift/2", "environment": environment("cpu", None, "0" * 40)}
    (path / "drift.json").write_text(json.dumps(head | {"drifts": [drift], "reasons": []}))
    layers = [Recovered(layer="float16 16-16", m=1, chains=2), Recovered(layer="float16 16-16", m=4)]
    same, other = ({"torchfused": equal, "jaxfused": True} for equal in (True, False))
    told = {"problem": CASE.problem, "plan": "tiled", "total": 64}
    ours = [
        Replay(**told, promised=True, equal=same),
        Replay(**told, promised=True, equal=other, differ={"y": 7}),
        Replay(**told, promised=False, equal=other, differ={"y": 9}),
        Replay(problem=CASE.problem, plan="tiled", promised=False, why="jax: <gone>"),
    ]
    lost = Recovered(layer="float32 16-16", m=4, why="<ended>")
    written(path, "vendor", replayed([*layers, lost], ours, ["one has <other> bits"]))
    for name, text in STRANGE.items():
        (path / name).write_text(text)
    return path


def test_page_is_self_contained_and_escapes(folder):
    text = page(collect(folder))
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "<script" not in text
    assert "&lt;b&gt;rows&lt;/b&gt;" in text
    assert "<b>rows</b>" not in text


def test_red_comes_first_and_everything_is_there(folder):
    content = collect(folder)
    found = headlines(content)
    assert {h.name for h in found if not h.good} == {
        "run.json", "order.json", "inject.json", "golden.json", "vendor.json"
    }  # fmt: skip
    assert "9 of 10 outputs predicted to the bit, 1 checks red" in {h.text for h in found}
    assert "1 of 2 promised MLPs have every bit of torch's eager, 1 red" in {h.text for h in found}
    assert "3 of 70 elements are not replayed to the bit, 0 red" in {h.text for h in found}
    assert [h.good for h in found] == sorted(h.good for h in found)
    text = page(content)
    for said in (
        str(CHAIN),
        "jaxfused tiled, torchfused tiled",
        "recovered in 1 of 3 products",
        "Of 1 there was no answer: &lt;ended&gt;",
        "one has &lt;other&gt; bits",
        ": jax: &lt;gone&gt;, not promised</span>",
        ": 0 of 64</span>; ",
        ": 7 of 64</span>; ",
        ": 9 of 64, not promised</span>; ",
        "SAME",
        "two chains",
        "10 %",
        "0.3333",
        "too old a GPU",
    ):
        assert said in text, said


@pytest.mark.parametrize(
    ("changed", "good"),
    [
        ({}, True),
        ({"reasons": ["a layer is not recovered any more"]}, False),
        ({"cases": []}, False),
        ({"promised": False}, False),
        ({"red": True}, False),
        ({"reasons": None}, False),
    ],
)
def test_a_replay_that_checked_nothing_is_no_good_news(tmp_path, changed, good):
    one = Replay(problem=CASE.problem, plan="tiled", promised=True, equal={"torchfused": True, "jaxfused": True})
    content = replayed([], [one], [])
    content["cases"][0] |= {key: changed[key] for key in ("promised", "red") if key in changed}
    content |= {key: changed[key] for key in ("reasons", "cases") if key in changed}
    written(tmp_path, "vendor", {key: value for key, value in content.items() if value is not None})
    (headline,) = headlines(collect(tmp_path))
    assert headline.good == good


def test_what_is_not_shown_is_listed(folder, tmp_path):
    content = collect(folder)
    assert {name for name, _ in content.hidden} == set(STRANGE)
    assert not {headline.name for headline in headlines(content)} & set(STRANGE)
    listed = re.search(r'<ul id="hidden">(.*?)</ul>', page(content), re.S)
    assert listed
    for said in (
        *STRANGE,
        "its schema &#39;parity.strangers/1&#39; is not known here",
        "parity.run/2",
        "it is no JSON",
    ):
        assert said in listed[1], said
    for path in folder.iterdir():
        if path.name not in STRANGE:
            shutil.copy(path, tmp_path)
    assert 'id="hidden"' not in page(collect(tmp_path))


def test_every_command_s_schema_is_known():
    written = {
        match[1]
        for path in (ROOT / "parity").glob("*.py")
        for match in re.finditer(r'^SCHEMA = "(.*)"$', path.read_text(), re.M)
    }
    assert written == SCHEMAS


def test_ulps_add_up_to_all_elements(folder):
    run = json.loads((folder / "run.json").read_text())
    size = CASE.problem.m * CASE.problem.out_features
    counts = [pair["ulps"] for case in run["cases"] for pair in case["pairs"] if pair["stage"] == "y"]
    assert counts
    assert {sum(each) for each in counts} == {size}
    assert page(collect(folder)).count('class="bars"') == 3


def test_command(folder, tmp_path):
    out = tmp_path / "index.html"
    done = CliRunner().invoke(app, ["report", "--folder", str(folder), "--out", str(out)])
    assert done.exit_code == 1
    assert "RED run.json: 1 cases passed, 1 failed" in done.output
    assert out.read_text().startswith("<!doctype html>")
    assert "not shown: newer.json: its schema 'parity.run/2' is not known here" in done.output
    (tmp_path / "bare.json").write_text(STRANGE["bare.json"])
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["report", "--folder", str(tmp_path), "--out", str(out)])
    assert done.exit_code == 2
    assert "bare.json: it has no schema" in done.output


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: the page was not opened in a browser")
def test_page_in_a_browser_shows_its_tables_and_drawings(folder, tmp_path):
    probe = """<script>addEventListener('load', () => { const rows = id => document.querySelectorAll('#' + id + ' tbody tr').length;
        document.title = JSON.stringify({
        drawn: [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect()).every(b => b.width > 5 && b.height > 5),
        svgs: document.querySelectorAll('svg').length, heads: document.querySelectorAll('#headlines li').length,
        rows: ['verdicts', 'orders', 'determinism', 'classes', 'latency', 'tokens', 'inject', 'vendor'].map(rows),
        wide: document.documentElement.scrollWidth <= innerWidth}) })</script></body>"""  # noqa: E501 (one script)
    copy = tmp_path / "page.html"
    copy.write_text(page(collect(folder)).replace("</body>", probe))
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,2000"]
    command += ["--virtual-time-budget=4000", f"--user-data-dir={tmp_path}/profile", "--dump-dom", copy.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    title = re.search(r"<title>(.*?)</title>", dom)
    assert title, "the browser printed no page"
    # Three histograms, one order, the ratios, the knobs.
    shown = {"drawn": True, "svgs": 6, "heads": 9, "rows": [3, 2, 1, 1, 5, 4, 1, 1], "wide": True}
    assert json.loads(title[1]) == shown

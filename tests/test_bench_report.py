"""Pictures, the page and README's numbers, from made-up results."""

import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import readme, report, results

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> results.Results:
    path = tmp_path_factory.mktemp("report") / "run.json"
    command = [sys.executable, "-m", "bench", "run", "--device", "fake", "--quick", "--json", str(path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return results.load(path)


@pytest.fixture(scope="module")
def page(run: results.Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write(run, tmp_path_factory.mktemp("page"))[-1]


def test_pictures_are_png_and_none_is_blank(page):
    from matplotlib import pyplot

    for name in ("latency", "over_roof", "speedup", "roof"):
        pixels = pyplot.imread(page.parent / f"{name}.png")
        assert pixels[..., :3].std() > 0.05, name


def test_page_is_self_contained(page):
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 4
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "<script" not in text
    for data in re.findall(r"base64,([A-Za-z0-9+/=]+)", text):
        assert base64.b64decode(data).startswith(b"\x89PNG")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: the page was not opened in a browser")
def test_page_in_a_browser_shows_its_plots_and_rows(page, run, tmp_path):
    probe = """<script>addEventListener('load', () => { document.title = JSON.stringify({
        plots: [...document.images].map(i => i.naturalWidth > 300 && i.offsetWidth > 300),
        rows: document.querySelectorAll('#rows tbody tr').length,
        claims: document.querySelectorAll('#claims tbody tr').length,
        wide: document.documentElement.scrollWidth <= innerWidth}) })</script></body>"""
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</body>", probe))
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,2000"]
    command += ["--virtual-time-budget=4000", f"--user-data-dir={tmp_path}/profile", "--dump-dom", copy.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    title = re.search(r"<title>(.*?)</title>", dom)
    assert title, "the browser printed no page"
    assert title[1] == (f'{{"plots":[true,true,true,true],"rows":{len(run.rows)},"claims":11,"wide":true}}')


README = """# x
<!-- bench:headline -->
old
<!-- /bench:headline -->
between
<!-- bench:claims -->
<!-- /bench:claims -->
"""


def test_marked_blocks_are_rewritten_and_nothing_else(run):
    text = readme.rewrite(README, run)
    assert "\nold\n" not in text
    assert text.startswith("# x\n<!-- bench:headline -->\n| MLP")
    assert "\nbetween\n" in text
    assert readme.rewrite(text, run) == text


def test_check_sees_a_number_changed_by_hand(run, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(readme.rewrite(README, run))
    assert readme.stale(path, run) == []
    path.write_text(re.sub(r"\*\*(\d)", r"**9\1", path.read_text(), count=1))
    assert readme.stale(path, run) == ["headline"]


def test_check_passes_where_there_is_nothing_to_check(run, tmp_path):
    path = tmp_path / "README.md"
    path.write_text("# no blocks\n")
    assert readme.stale(path, run) == []
    assert readme.stale(path, None) == []
    assert readme.stale(tmp_path / "absent.md", run) == []


def test_fused_plans_are_told_of_this_gpu_and_else_of_others(run, tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "FOLDER", tmp_path)
    hopper = run.path.read_text()
    for gpu in ("here", "there"):
        (tmp_path / gpu).mkdir()
        (tmp_path / gpu / "run.json").write_text(hopper.replace("/hopper", "/portable"))
    here = results.load(tmp_path / "here/run.json")
    assert readme.fused(here, readme.elsewhere(here)) == "No plan of the hopper backend has been measured yet."
    (tmp_path / "there/run.json").write_text(hopper)
    text = readme.fused(here, readme.elsewhere(here))
    told, commit = text.splitlines()[0], run.environment["commit"]
    assert told.startswith(f"{run.environment['gpu']}; ")
    assert re.search(rf"; commits {re.escape(commit)}; \d+ rows\.$", told)
    assert re.search(r"\| Llama-3 8B \| 16 \| THERE \| .*\((tiled|decode)/\w+\)\*\*", text)
    (tmp_path / "here/run.json").write_text(hopper)
    here = results.load(tmp_path / "here/run.json")
    text = readme.fused(here, readme.elsewhere(here))
    assert "commits" not in text
    assert "| Llama-3 8B | 16 | HERE |" in text
    assert "THERE" not in text


def test_memory_is_told_by_the_newest_run_of_any_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "FOLDER", tmp_path)

    def saved(gpu: str, date: str, framework: str, megabytes: int) -> None:
        own, ours = {"torch": ("torch.eager", "torchfused"), "jax": ("xla", "jaxfused")}[framework]
        row = {"dtype": "bfloat16", "mode": "forward_backward", "workload": "llama3_8b", "m": 4096, "correct": True}
        row |= {"case": "llama3_8b/4096", "framework": framework}
        labels = [(own, ""), *((ours, label) for label in readme.SAVE_LABELS.values())]
        rows = [
            row | {"contender": contender, "plan": plan, "peak_bytes": (megabytes + i) * 10**6}
            for i, (contender, plan) in enumerate(labels)
        ]
        made = results.Results(path=tmp_path / gpu / f"{date}.json", rows=rows)
        made.environment = {"gpu": gpu, "date": date, "commit": "", "versions": {}}
        made.cases = [{"key": row["case"], "blocks": 1, "chosen": True}]
        made.save()

    saved("here", "2026-11-02", "torch", 100)
    saved("here", "2026-11-02b", "jax", 200)
    saved("there", "2026-11-01", "jax", 300)
    here = results.latest(results.committed(tmp_path, "here"))
    assert here is not None
    jax = "200 | 201 | 202 | 203 |"
    assert readme.memory(here, readme.elsewhere(here)).endswith(f"| Llama-3 8B | 4,096 | 100 | 101 | 102 | 103 | {jax}")
    saved("there", "2026-11-03", "torch", 400)
    there = readme.elsewhere(here)
    assert readme.memory(here, there).endswith(f"| Llama-3 8B | 4,096 | 400 | 401 | 402 | 403 | {jax}")
    # A newer run without all of its framework's cells gives none.
    there[0].runs[0].rows.pop()
    assert readme.memory(here, there).endswith(f"| Llama-3 8B | 4,096 | 100 | 101 | 102 | 103 | {jax}")


def test_an_unknown_block_is_an_error(run):
    with pytest.raises(ValueError, match="bench:nonsense"):
        readme.rewrite("<!-- bench:nonsense -->\n<!-- /bench:nonsense -->", run)

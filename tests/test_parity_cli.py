"""The command line as a user meets it, in a process of its own."""

import json
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest

from parity.cases import SUITES


def parity(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "parity", *arguments], capture_output=True, text=True, timeout=300, **options
    )


@pytest.mark.parametrize("suite", SUITES)
def test_list(suite):
    done = parity("list", "--suite", suite)
    assert done.returncode == 0
    assert done.stdout.split() == [case.name for case in SUITES[suite]()]


def test_neither_the_package_nor_its_help_imports_a_framework():
    code = (
        "import sys, parity; assert not [m for m in sys.modules if m.startswith('parity.')];"
        "import parity.cli; print([m for m in ('jax', 'torch', 'triton', 'flax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (("run", "--suite", "huge"), ("suite is 'huge', must be one of smoke, core, full",)),
        (("list", "--suite", "huge"), ("must be one of smoke, core, full",)),
        (("run", "--device", "tpu"), ("device is 'tpu', must be one of auto, cpu, gpu",)),
        (("run", "--case", "nonsense"), ("no case is named 'nonsense'", "gelu_tanh-ud-fp32-33x47x65x29")),
        (("run", "--json", "/absent/report.json"), ("cannot write /absent/report.json",)),
        (("run", "--junit", "/"), ("cannot write /",)),
    ],
)
def test_misuse_names_what_is_known(arguments, texts):
    done = parity(*arguments, env={"PATH": "/usr/bin:/bin", "COLUMNS": "400"})
    assert done.returncode == 2
    assert all(text in done.stderr for text in texts)
    assert "jax~" not in done.stdout


def test_run_writes_table_json_and_junit(tmp_path):
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    one, two = tmp_path / "run.json", tmp_path / "run.xml"
    patterns = (
        "silu-gated-fp16-33x47x65x29-hidden",
        "identity-d-fp16-17x65x33x17-special",
        "silu-gated-bf16-33x47x65x29",
    )
    cases = [argument for pattern in patterns for argument in ("--case", pattern)]
    done = parity("run", "--device", "cpu", *cases, "--json", str(one), "--junit", str(two))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "2 passed, 0 failed, 1 skipped" in done.stdout
    content = json.loads(one.read_text())
    assert content["summary"] == {"passed": 2, "failed": 0, "errors": 0, "skipped": 1, "planned": 3}
    assert content["environment"]["gpu"] is None
    assert len(content["cases"][0]["pairs"]) == 16 * 4 + 12 * 4 + 5 * 2
    assert ElementTree.parse(two).getroot().get("tests") == "3"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_what_was_done(tmp_path, number):
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    path = tmp_path / "run.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "parity", "run", "--suite", "core", "--device", "cpu", "--json", str(path)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(9)
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in text
    content = json.loads(path.read_text())
    assert content["interrupted"]
    assert content["summary"]["failed"] == 0
    assert len(content["cases"]) < content["summary"]["planned"]

"""``parity order`` through the workers: emulated ones, whose orders are known, and the frameworks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from parity.contract.plan import Plan
from parity.order import GEMMS, Probe, orders
from parity.process import Spec
from parity.session import Session

HERE = Path(__file__).parent
WIDE = {**os.environ, "COLUMNS": "300"}


def emulated(fault):
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    return Spec(
        name="torch",
        module="emulated_worker",
        arguments=("torch",),
        environment={"PARITY_FAULT": fault, "PYTHONPATH": path},
    )


def find(fault, runner="torchfused", *, dtype="float16", m=7, k=64):
    probe = Probe(k=k, m=m, dtype=dtype, precision="ieee", plan=Plan())
    with Session([emulated(fault)]) as session:
        found = list(orders(session, probe, [runner]))
    assert [finding.gemm for finding in found] == list(GEMMS)
    return found


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("fault", "text"),
    [("", "chain[128 x (1+acc)]"), ("tensor", "chain[8 x (16+acc)]"), ("tensor_split", "2 x chain[4 x (16+acc)]")],
)
def test_both_gemms_orders_are_found(fault, text, dtype):
    found = find(fault, dtype=dtype, k=128)
    assert [str(finding) for finding in found] == [text, text]
    assert found[0].order == found[1].order
    assert [str(finding) for finding in find(fault, "eager", k=128)] == ["chain[128 x (1+acc)]"] * 2


def test_an_order_that_changes_is_a_finding_of_its_own():
    up, down = find("atomics", dtype="float32")
    assert up.order is None
    assert "order" in up.why
    assert str(down) == "chain[64 x (1+acc)]"


def test_a_runner_that_fails_says_why():
    assert [finding.why for finding in find("raise")] == ["ValueError: this runner cannot"] * 2


def test_a_worker_that_dies_of_the_question_is_named():
    for finding in find("crash"):
        assert finding.order is None
        assert "was ended by SIGABRT" in finding.why


def test_one_row_is_enough():
    assert str(find("tensor", m=1)[0]) == "chain[4 x (16+acc)]"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--runner", "numpy"), "runner is 'numpy', must be one of jaxfused, xla, torchfused, eager"),
        (("--dtype", "bfloat16", "--k", "512"), "k is 512, must be at most 256"),
        (("--dtype", "float64"), "dtype is float64"),
        (("--json", "/nowhere/order.json"), "cannot write /nowhere/order.json"),
        (("--precision", "tf32", "--dtype", "float16"), "tf32"),
    ],
)
def test_what_cannot_be_asked(arguments, text):
    done = subprocess.run(
        [sys.executable, "-m", "parity", "order", *arguments], capture_output=True, text=True, env=WIDE
    )
    assert done.returncode == 2
    assert text in done.stderr


def test_the_frameworks_answer(tmp_path):
    """What their CPU libraries' orders are is theirs to choose: each of the four is asked, and both GEMMs told."""
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    path, picture = tmp_path / "order.json", tmp_path / "order.png"
    words = ("--k", "32", "--m", "32", "--device", "cpu", "--json", str(path), "--plot", str(picture), "--probes")
    done = subprocess.run(
        [sys.executable, "-m", "parity", "order", *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode in (0, 1), done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    told = json.loads(path.read_text())
    assert told["schema"] == "parity.order/1"
    assert told["probe"]["k"] == 32
    assert len(told["findings"]) == 8
    with_order = {finding["runner"] for finding in told["findings"] if finding["gemm"] == "up" and finding["order"]}
    assert {facts["runner"] for facts in told["adders"]} == with_order
    for finding in told["findings"]:
        assert finding["questions"] >= 31
        assert finding["runner"] in done.stdout
        if finding["order"]:
            assert sum(child < 32 for node in finding["nodes"] for child in node) == 32
            assert finding["digest"] in done.stdout
        else:
            assert "order" in finding["why"] or "column" in finding["why"]

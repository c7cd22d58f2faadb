"""A failing case is shrunk to what its fault needs, and its script fails by itself until the fault is gone."""

import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from planted import CPU, specs, where
from typer.testing import CliRunner

from parity import options, repro
from parity.cases import build
from parity.cli import app
from parity.minimise import arrays_of, minimise
from parity.session import Session

ROOT = Path(__file__).parents[1]
CASE = build("gelu_tanh", (9, 33, 40, 12), "fp16", gated=True, biases="ugd", plan="split2")


def least(fault: str):
    at = where(fault, CPU)
    with Session(at.workers, 60) as session:
        return minimise(CASE, at, session, tries=150)


def test_what_does_not_fail_is_not_shrunk():
    assert least("") is None


@pytest.mark.parametrize(
    ("fault", "kept"),
    [
        ("bias_up_skipped", {"bias_up": True, "bias_down": False}),
        ("bias_down_skipped", {"bias_up": False, "bias_down": True}),
        ("wrong_gelu", {"activation": "gelu_tanh"}),
        ("refuses", {"activation": "identity", "bias_up": False, "bias_down": False}),
    ],
)
def test_a_case_is_shrunk_to_what_the_fault_needs(fault, kept):
    found = least(fault)
    assert found is not None
    assert found.complete
    problem = found.case.problem
    assert {name: getattr(problem, name) for name in kept} == kept
    assert not problem.gated
    assert problem.dtype == "float32"
    assert found.case.plan.split_k == (1, 1)
    sizes = (problem.m, problem.in_features, problem.hidden_features, problem.out_features)
    assert max(sizes) <= 4
    assert any("torchfused" in key[:2] for key in found.red)


@pytest.mark.parametrize(
    ("fault", "kept"),
    [
        ("factor_left_out", {"gated": True}),
        ("bias_partial_dropped", {"gated": False}),
        ("h_of_another_row", {"activation": "identity", "bias_up": False, "bias_down": False}),
    ],
)
def test_a_gradient_s_fault_is_shrunk_too(fault, kept):
    case = replace(CASE, problem=replace(CASE.problem, m=19))
    at = where(fault, CPU)
    with Session(at.workers, 60) as session:
        found = minimise(case, at, session, tries=150)
    assert found is not None
    assert found.backward
    assert found.complete
    assert {name: getattr(found.case.problem, name) for name in kept} == kept
    assert "torchfused" in found.failing
    assert all(stage.startswith("d_") for _, _, stage in found.red)


FAULTY = """
import importlib.util, os, sys

# Behind this one on the path: the real package, loaded in its place, then its stages spoiled.
here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
real = next(p for p in sys.path if os.path.exists(os.path.join(p, "torchfused", "functional.py")) and p != here)
__path__ = [os.path.join(real, "torchfused")]
from torchfused import functional

right = functional.stages
functional.stages = lambda *, b_up=None, **given: right(**given)
"""

FAULTY_GRADIENTS = """
right = functional.gradients

def gradients(dy, **given):
    found = right(dy, **given)
    return found | {WRONG}

functional.gradients = gradients
"""


def test_the_script_stands_alone(tmp_path):
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    case = build("silu", (3, 8, 5, 4), "fp16", biases="ud")
    path = tmp_path / "fails.py"
    written = repro.write(path, case, arrays_of(case, backward=False), "first GEMM", "ieee", equal=False)
    assert written == [path]
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, env=_path(ROOT), timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it does not fail here" in done.stdout
    # The same with a fault in torchfused: the real package under another name, a wrong one in its place.
    (tmp_path / "torchfused").mkdir()
    (tmp_path / "torchfused" / "__init__.py").write_text(FAULTY)
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, env=_path(ROOT), timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "it fails here too" in done.stdout
    wrong = [line.split()[:2] for line in done.stdout.splitlines() if "WRONG" in line]
    assert ["torchfused", "s"] in wrong
    assert not [line for line in wrong if line[0] == "jaxfused"]


@pytest.mark.parametrize(
    ("dtype", "wrong", "stages"),
    [
        ("fp16", "{'d_w_up': found['d_w_up'] * 1.01}", {"d_w_up"}),
        # What follows is that of the wrong d_s, which alone is red.
        ("tf32", "{'d_s': found['d_s'] * 1.01}", {"d_s"}),
        ("fp16", "{'d_b_down': dy[1:].sum(0)}", {"d_b_down"}),
    ],
)
def test_a_gradient_s_script_shows_the_gradient(tmp_path, dtype, wrong, stages):
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    case = build("silu", (3, 8, 5, 4), dtype, gated=True, biases="ugd", save="hidden")
    path = tmp_path / "fails.py"
    repro.write(path, case, arrays_of(case, backward=True), "backward", "ieee", equal=False)
    (tmp_path / "torchfused").mkdir()
    for text in ("", FAULTY_GRADIENTS.replace("{WRONG}", wrong)):
        (tmp_path / "torchfused" / "__init__.py").write_text(FAULTY.partition("right =")[0] + text)
        done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, env=_path(ROOT), timeout=120)
        assert done.returncode == bool(text), done.stdout + done.stderr
        red = {tuple(line.split()[:2]) for line in done.stdout.splitlines() if "WRONG" in line}
        assert stages <= {stage for _, stage in red} if text else not red
        assert {runner for runner, _ in red} <= {"torchfused"}


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "beside"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_the_script_has_the_operands_bytes(tmp_path, inside, dtype, backward, monkeypatch):
    monkeypatch.setattr(repro, "INSIDE", repro.INSIDE if inside else 0)
    case = build("silu", (3, 8, 5, 4), dtype, biases="ud")
    arrays, path = arrays_of(case, backward=backward), tmp_path / "fails.py"
    written = repro.write(path, case, arrays, "first GEMM", "ieee", equal=False)
    assert written == ([path] if inside else [path, tmp_path / "fails.npz"])
    _, operands = runpy.run_path(str(path))["load"]()
    assert {name: a.tobytes() for name, a in operands.items()} == {name: a.tobytes() for name, a in arrays.items()}
    assert {a.dtype.name for a in operands.values()} == {case.problem.dtype}


def _path(*folders: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}


def test_command_writes_the_script(tmp_path, monkeypatch):
    path = tmp_path / "fails.py"
    arguments = ["minimise", "--device", "cpu", "--tries", "12", "--out", str(path), "--case"]
    for fault, code in (("", 0), ("bias_up_skipped", 1)):
        monkeypatch.setattr(options, "specs", lambda device, kind, fault=fault: specs(fault))
        done = CliRunner().invoke(app, [*arguments, "gelu_tanh-ud-fp16-33x47x65x29"])
        assert done.exit_code == code, done.output
        assert path.exists() is bool(fault)
    assert "placed in first GEMM of torchfused (the bias is missing)" in path.read_text()
    compile(path.read_text(), str(path), "exec")

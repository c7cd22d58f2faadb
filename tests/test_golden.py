"""Vectors of real kernels, and of emulated ones that are right or wrong in one thing: the emulator tells which."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from parity import golden
from parity.adder import Adder
from parity.cli import app
from parity.contract.plan import Plan
from parity.contract.problem import Device
from parity.golden import Item, capture, check, differing, large, load, recheck, save, small
from parity.process import Spec
from parity.session import Session

HERE = Path(__file__).parent
COMMITTED = sorted((HERE / "golden").glob("*.npz"))
assert COMMITTED
HOPPER = Device(kind="gpu", name="H100", sm_count=132, smem_bytes=232448, capability=(9, 0))


def emulated(fault, other="hopper"):
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    return [
        Spec(
            name=name,
            module="emulated_worker",
            arguments=(name,),
            environment={"PARITY_FAULT": fault if name == "torch" else other, "PYTHONPATH": path},
        )
        for name in ("jax", "torch")
    ]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_the_emulator_gives_every_bit_of_real_kernels(path):
    red = [(str(found.item), found.runner, found.wrong) for found in recheck(path) if found.red]
    assert not red


def test_what_is_kept_can_be_read_again(tmp_path):
    checks = []
    with Session(emulated("hopper")) as session:
        vectors = capture([session], small(HOPPER)[::5], checks.append)
    assert len(checks) == len(vectors) > 8
    assert not any(found.red for found in checks)
    path = tmp_path / "golden.npz"
    save(vectors, path)
    kept = list(load(path))
    for one, two in zip(vectors, kept, strict=True):
        assert (one.item, one.runner) == (two.item, two.runner)
        for a, b in ((one.operands, two.operands), (one.stages, two.stages)):
            assert all(not differing(b[name], array).any() for name, array in a.items())
    assert not any(found.red for found in recheck(path))
    # Both runners' arrays are the same: each is there once.
    with np.load(path) as file:
        assert len(file.files) < 1 + sum(len(vector.operands) + len(vector.stages) for vector in vectors)


@pytest.mark.parametrize(
    ("fault", "stage"),
    [("fraction", "s"), ("nearest", "s"), ("order", "s"), ("bias", "s"), ("rounded", "s"), ("apart", "y")],
)
def test_a_kernel_that_adds_otherwise_is_red(fault, stage):
    items = small(HOPPER)
    dtype = "float32" if fault == "apart" else "float16"
    chosen = next(i for i in items if i.problem.dtype == dtype and i.problem.precision == "ieee" and not i.spread)
    checks = []
    with Session(emulated(f"hopper-{fault}")) as session:
        capture([session], [chosen], checks.append)
    assert {found.runner: found.red for found in checks} == {"jaxfused": False, "torchfused": True}
    red = next(found for found in checks if found.red)
    assert red.wrong[stage] > 0
    assert len(red.at[stage]) == 2


def test_tf32_that_is_cut_off_is_red():
    chosen = next(i for i in small(HOPPER) if i.problem.precision == "tf32")
    checks = []
    with Session(emulated("hopper-truncated")) as session:
        check([session], [chosen], checks.append)
    assert [found.red for found in checks] == [False, True]


def test_a_red_check_says_which_adder_it_would_be():
    chosen = next(i for i in small(HOPPER) if i.problem.precision == "tf32")
    checks = []
    with Session(emulated("hopper-truncated")) as session:
        capture([session], [chosen], checks.append)
    good, bad = sorted(checks, key=lambda found: found.red)
    assert good.instead == {}
    assert bad.instead[str(Adder(terms=8, tf32="zero"))] == 0
    assert bad.instead[str(Adder(terms=8, tf32="away"))] == sum(bad.wrong.values())


def test_a_runner_that_fails_is_red():
    checks = []
    with Session(emulated("raise")) as session:
        vectors = capture([session], small(HOPPER)[:1], checks.append)
    assert {found.runner: found.why for found in checks if found.red} == {
        "torchfused": "ValueError: this runner cannot"
    }
    assert [vector.runner for vector in vectors] == ["jaxfused"]


def test_a_million_outputs_of_every_backend_and_dtype():
    items = large(HOPPER)
    for item in items:
        assert item.problem.m * item.problem.hidden_features >= 2**20
    assert {item.plan.backend for item in items} == {"portable", "hopper"}
    assert {item.problem.dtype for item in items} == {"float32", "float16", "bfloat16"}
    assert large(Device(kind="interpreter")) == []
    assert all(item.problem.dtype != "bfloat16" for item in small(Device(kind="interpreter")))


def test_operands_are_spread():
    item = next(item for item in small(HOPPER) if item.spread)
    plain = Item(problem=item.problem, plan=Plan())
    one, two = item.operands(), plain.operands()
    assert np.log2(np.abs(one["x"]).max()) > np.log2(np.abs(two["x"]).max()) + 1


def test_the_command_checks_a_file(tmp_path):
    with Session(emulated("hopper-nearest")) as session:
        vectors = capture([session], small(HOPPER)[:2], lambda found: None)
    good, bad = ([v for v in vectors if v.runner == name] for name in ("jaxfused", "torchfused"))
    for kept, code in ((good, 0), (bad, 1)):
        path = tmp_path / "one.npz"
        save(kept, path)
        done = subprocess.run(
            [sys.executable, "-m", "parity", "golden", "--check", str(path)], capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        assert f"2 checks, {2 * code} red" in done.stdout


def test_the_command_writes_what_it_saw(tmp_path, monkeypatch):
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    # Every dtype that the interpreters serve, both shapes.
    monkeypatch.setattr(golden, "small", lambda device: small(device)[::5])
    done = CliRunner().invoke(app, ["golden", "--device", "cpu", "--out", str(tmp_path)])
    # Their GEMMs add as their libraries do.
    assert done.exit_code == 1, done.output
    told = json.loads((tmp_path / "golden.json").read_text())
    assert told["schema"] == "parity.golden/1"
    assert not any(entry["why"] for entry in told["checks"])
    assert len(list(load(tmp_path / "golden.npz"))) == len(told["checks"])

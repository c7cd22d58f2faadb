"""`parity train`: the command from end to end in the interpreters, a fault that must be seen, the verdict's logic."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from parity.cli import app
from parity.train import DRIFT, RUNNERS, Run, compare
from parity.train_model import batches, config, parameters, text, vocabulary
from parity.train_worker import snapshots

STEPS = 12


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("train")
    arguments = ["train", "--steps", str(STEPS), "--device", "cpu"]
    files = ["--json", str(folder / "train.json"), "--plot", str(folder / "train.png")]
    done = CliRunner().invoke(app, [*arguments, *files])
    assert done.exit_code == 0, done.output
    assert "passed" in done.output
    return json.loads((folder / "train.json").read_text()), folder / "train.png"


def test_all_four_learn_and_stay_together(trained):
    result, plot = trained
    assert result["schema"] == "parity.train/1"
    assert result["passed"]
    assert set(result["runs"]) == set(RUNNERS)
    for run in result["runs"].values():
        assert len(run["loss"]) == STEPS
        assert run["loss"][-1] < run["loss"][0]
    for pair in result["pairs"]:
        assert [point["step"] for point in pair["drift"]] == snapshots(STEPS)
        assert 0 <= pair["drift"][0]["relative"] < 1e-6
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("runner", ["torchfused", "jaxfused"])
def test_a_wrong_rate_is_seen(runner, tmp_path):
    path = tmp_path / "train.json"
    arguments = ["train", "--steps", "2", "--device", "cpu", "--fault", runner, "--json", str(path)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    reasons = json.loads(path.read_text())["reasons"]
    assert any(runner in reason and "apart after step 1" in reason for reason in reasons)


def test_an_unknown_fault_is_misuse():
    assert CliRunner().invoke(app, ["train", "--fault", "nobody"]).exit_code == 2


def test_model_is_the_same_bytes_every_time():
    c = config("cpu", 5, seed=3)
    assert len(vocabulary()) > 40
    assert text().max() == len(vocabulary()) - 1
    for one, two in zip(batches(c), batches(c), strict=True):
        assert np.array_equal(one, two)
    first, second, other = parameters(c), parameters(c), parameters(replace(c, seed=4))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["head"], other["head"])
    inputs, following = batches(c)
    assert np.array_equal(inputs.shape, (5, c.batch, c.context))
    # What follows is the corpus' own next character.
    flat = "".join(map(chr, text()))
    for row, after in zip(inputs[0], following[0], strict=True):
        assert "".join(map(chr, row)) + chr(after) in flat


def test_snapshots_are_dense_at_first_and_end_with_the_last():
    assert snapshots(3) == [1, 2, 3]
    found = snapshots(500)
    assert found[:10] == list(range(1, 11))
    assert found[-1] == 500
    assert len(found) < 40


def made(apart: dict[str, float], last: float = 1.0) -> dict[str, Run]:
    """Runs whose one parameter is off by so much."""
    losses = np.linspace(4.0, last, 20, dtype=np.float32)
    found = {}
    for name in RUNNERS:
        value = np.float32(1.0 + apart.get(name, 0.0))
        found[name] = Run(loss=losses, hashes={1: str(value)}, parameters={1: {"w": np.full(4, value)}})
    return found


def test_verdict():
    c = config("cpu", 20, seed=0)
    close = {"xla": 1e-3, "jaxfused": 2e-3, "torchfused": 1e-3}
    assert compare(made(close), c)["passed"]
    far = compare(made(close | {"torchfused": 1.5e-3 * DRIFT}), c)
    assert not far["passed"]
    assert "apart after step 1" in far["reasons"][0]
    lazy = compare(made(close, last=3.9), c)
    assert len([r for r in lazy["reasons"] if "did not learn" in r]) == len(RUNNERS)
    astray = {name: replace(run, loss=run.loss.copy()) for name, run in made(close).items()}
    astray["eager"].loss[3] = np.nan
    assert any("not finite" in r for r in compare(astray, c)["reasons"])


def test_first_difference_is_counted_from_one():
    c = config("cpu", 20, seed=0)
    runs = {n: replace(r, loss=r.loss.copy()) for n, r in made({"jaxfused": 1e-3, "xla": 1e-3}).items()}
    runs["jaxfused"].loss[4] += np.float32(1e-3)
    pairs = {(p["a"], p["b"]): p for p in compare(runs, c)["pairs"]}
    assert pairs["jaxfused", "torchfused"]["first_loss"] == 5
    assert pairs["jaxfused", "torchfused"]["first_parameters"] == 1
    assert pairs["torchfused", "eager"]["first_loss"] is None
    assert pairs["torchfused", "eager"]["first_parameters"] is None

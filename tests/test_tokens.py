"""`parity tokens`: the numbers from made-up logits, the decoding from a made-up model, the command, a fault seen."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from parity import tokens
from parity.cli import app
from parity.tokens import DEPTHS, SCHEMA, compare
from parity.tokens_model import config, parameters, prompts
from parity.tokens_worker import forced, greedy
from parity.train import PAIRS, RUNNERS
from parity.train_model import vocabulary

SIZE = len(vocabulary())
C = config("cpu", 1, 5, seed=3)


def successor(characters, position):
    """A model that is sure of the character after the one it is given."""
    return np.eye(SIZE, dtype=np.float32)[(characters + 1) % SIZE]


def made(noise: float = 0.0, runner: str = "torchfused"):
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((C.batch, C.steps, SIZE)).astype(np.float32)
    found = {}
    for name in RUNNERS:
        own = logits + np.float32(noise) * generator.standard_normal(logits.shape).astype(np.float32)
        own = own if name == runner else logits
        found[name] = {"logits": own.copy(), "tokens": own.argmax(axis=2)}
    return found


def pairs(found):
    return {(p["a"], p["b"]): p for p in found["pairs"]}


def test_decoding_follows_the_prompt_and_then_itself():
    said = greedy(successor, C)
    assert said.shape == (C.batch, C.steps)
    last = prompts(C)[:, C.prompt - 1]
    assert (said == (last[:, None] + 1 + np.arange(C.steps)) % SIZE).all()
    logits = forced(successor, C)
    assert logits.shape == (C.batch, C.steps, SIZE)
    assert (logits.argmax(axis=2) == (prompts(C)[:, C.prompt - 1 : -1] + 1) % SIZE).all()


def test_the_model_is_the_same_bytes_every_time():
    one, two, deeper = parameters(C), parameters(C), parameters(replace(C, depth=2))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert len(deeper) > len(one)
    assert one["0.w_up"].dtype.name == C.dtype
    assert one["0.w_q"].dtype.name == "float32"
    assert config("gpu", 4, None, 0).dtype == "bfloat16"


def test_equal_runners_have_nothing_between_them():
    found = compare(made(), C)
    assert found["reasons"] == []
    for pair in pairs(found).values():
        assert pair["first_divergence"] is None
        assert pair["logits_equal"] == 1
        assert all(pair[key] == 0 for key in ("flip_rate", "flip_rate_predicted", "logprob_max", "kl_max", "diverged"))


def test_what_differs_is_counted():
    found = compare(made(0.3), C)
    assert {(p["a"], p["b"]) for p in found["pairs"]} == set(PAIRS)
    apart, same = pairs(found)["torchfused", "eager"], pairs(found)["xla", "eager"]
    assert apart["first_divergence"] == 1
    assert 0 < apart["flip_rate"] <= 1
    assert 0 < apart["flip_rate_predicted"] < 1
    assert 0 < apart["kl_mean"] <= apart["kl_max"]
    assert same["flip_rate"] == 0
    assert any("jaxfused and torchfused have logits" in reason for reason in found["reasons"])
    assert not any("xla and eager" in reason for reason in found["reasons"])


def test_what_is_not_finite_is_red():
    found = made()
    found["xla"]["logits"][0, 0, 0] = np.nan
    assert compare(found, C)["reasons"] == ["depth 1: xla's logits are not finite"]


def test_command(tmp_path, monkeypatch):
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    path = tmp_path / "tokens.json"
    arguments = ["tokens", "--device", "cpu", "--steps", "2", "--json", str(path)]
    monkeypatch.setattr(tokens, "config", lambda *asked: replace(config(*asked), prompt=2))
    monkeypatch.setitem(DEPTHS, "cpu", (1, 2))
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    content = json.loads(path.read_text())
    assert content["schema"] == SCHEMA
    assert [depth["config"]["depth"] for depth in content["depths"]] == [1, 2]
    assert all(pair["relative"] > 0 for depth in content["depths"] for pair in depth["pairs"])
    done = CliRunner().invoke(app, [*arguments, "--depth", "2", "--fault", "torchfused"])
    assert done.exit_code == 1
    content = json.loads(path.read_text())
    assert [depth["config"]["depth"] for depth in content["depths"]] == [2]
    reasons = content["reasons"]
    assert reasons
    assert all("torchfused" in reason for reason in reasons)


@pytest.mark.parametrize("arguments", [("--fault", "nobody"), ("--depth", "0")])
def test_misuse(arguments):
    assert CliRunner().invoke(app, ["tokens", "--device", "cpu", *arguments]).exit_code == 2

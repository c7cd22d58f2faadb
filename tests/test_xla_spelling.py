"""XLA's 16-bit activations, emulated: against what an H100 was seen to compute, and told from the others by drift."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from parity import stimulus
from parity.adder import F
from parity.contract.activations import ACTIVATIONS
from parity.contract.plan import Plan
from parity.contract.problem import Problem
from parity.epilogue import contract, rounded, stages
from parity.portrait import portray
from parity.rounding import NUMPY_DTYPES
from parity.vendor_spelling import VENDOR
from parity.xla_spelling import XLA

MEASURED = Path(__file__).parents[1] / "bench/results/h100/parity/xla_against_torch.json"
ROWS = json.loads(MEASURED.read_text())["activations"]
PROBLEM = Problem(m=16, in_features=64, hidden_features=96, out_features=16, dtype="float16", activation="silu")


def of_all_numbers(table, name, dtype):
    """The 16-bit results of each 16-bit number; every NaN as one."""
    s = np.arange(1 << 16, dtype=np.uint16).view(NUMPY_DTYPES[dtype]).astype(F)
    problem = replace(PROBLEM, dtype=dtype)
    with np.errstate(all="ignore"):
        f = rounded(table[name](s, partial(rounded, problem=problem)), problem)
    return np.where(np.isnan(f), F(np.nan), f).view(np.uint32)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['activation']}-{row['dtype']}")
def test_as_many_numbers_differ_from_torchs_as_on_a_gpu(row):
    """A rounding more or less makes hundreds; exp, tanh and erfc, which are a GPU's there, a few."""
    xla, torch = (of_all_numbers(table, row["activation"], row["dtype"]) for table in (XLA, VENDOR))
    assert abs(int((xla != torch).sum()) - row["different_from_torch"]) <= 3


def test_each_activation_has_one():
    assert XLA.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "quick_gelu", "silu", "sigmoid"])
def test_it_is_found_among_the_recipes(activation, dtype, gated):
    problem = replace(PROBLEM, activation=activation, dtype=dtype, gated=gated)
    arrays = stimulus.generate(problem, "normal", 3)
    recipe = replace(contract(problem, Plan()), spelling="xla", round_s=True, round_f=True)
    found = portray(problem, arrays, "xla", stages(problem, arrays, recipe), {}, tensor=True)
    assert found.recipe.spelling == "xla"
    assert set(found.wrong.values()) == {0}

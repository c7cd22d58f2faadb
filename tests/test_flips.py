"""FLIP_EXPLAINED: given to arithmetic that differs before the rounding, not to a rounding that differs by itself."""

from collections import Counter

import numpy as np
import pytest
from emulation import emulate

from parity import stimulus
from parity.cases import SHAPES, build
from parity.contract.tolerance import LAMBDA, VERDICTS
from parity.judge import judge, prepare

TENSOR = pytest.mark.parametrize("tensor", [False, True], ids=["ieee", "tensor"])


def judged(case, seed, change=None, *, tensor=True, splits=3):
    arrays = stimulus.generate(case.problem, "normal", seed)
    one = emulate(case.problem, arrays, tensor=tensor)
    two = emulate(case.problem, arrays, tensor=tensor, splits=splits)
    if change:
        two = change(case, arrays, two)
    results = {"jaxfused": one, "torchfused": two}
    pairs = judge(case, prepare(case, arrays), results, "tensor" if tensor else "ieee")
    return {(p.a, p.b, p.stage): p for p in pairs}


@TENSOR
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize(("activation", "gated"), [("relu", False), ("gelu_tanh", False), ("silu", True)])
def test_what_a_split_makes_differ_is_explained(activation, gated, dtype, tensor):
    case = build(activation, (64, 256, 192, 96), dtype, gated=gated, biases="ud")
    found = Counter()
    for seed in range(3):
        pairs = judged(case, seed, tensor=tensor)
        for a, b in (("jaxfused", "torchfused"), ("jaxfused", "oracle"), ("torchfused", "oracle")):
            for stage in ("h", "y"):
                found[pairs[a, b, stage].comparison.verdict] += 1
    assert set(found) <= {"BIT_EQUAL", "FLIP_EXPLAINED"}
    assert found["FLIP_EXPLAINED"] > 6


def test_as_many_flips_are_predicted_as_are_seen():
    case = build("relu", (256, 512, 256, 128), "bf16")
    pair = judged(case, 1, splits=4)["jaxfused", "torchfused", "h"]
    assert pair.flips
    # Of relu nothing is unknown: the number of flips is theirs, give or take its root.
    assert pair.flips.predicted > 10
    assert abs(pair.flips.observed - pair.flips.predicted) < LAMBDA * pair.flips.predicted**0.5
    assert pair.to_dict()["flips"]["observed"] == pair.flips.observed


def flipped(share):
    """Some of h, or y, rounded the other way: less than any element's bound, and fewer than the energy allows."""

    def change(case, arrays, stages):
        generator = np.random.default_rng(0)
        h = stages["h"].copy()
        chosen = (generator.random(h.shape) < share) & (h != 0)
        h[chosen] = np.nextafter(h[chosen], h.dtype.type(np.inf))
        return stages | {"h": h, "y": emulate(case.problem, arrays, tensor=True)["y"]}

    return change


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_rounding_that_goes_wrong_by_itself_is_not(dtype):
    case = build("relu", (64, 256, 192, 96), dtype)
    fair = judged(case, 2, splits=1)["jaxfused", "torchfused", "h"]
    assert fair.comparison.verdict == "BIT_EQUAL"
    pair = judged(case, 2, flipped(0.02), splits=1)["jaxfused", "torchfused", "h"]
    assert pair.flips
    assert pair.flips.observed > pair.flips.limit
    assert VERDICTS.index(pair.comparison.verdict) > VERDICTS.index("FLIP_EXPLAINED")


@pytest.mark.parametrize("mutant", ["h_not_rounded", "s_rounded", "y_truncated", "wrong_gelu", "dropped_k_tail"])
def test_no_mutant_is_explained(mutant):
    case = build("gelu_tanh", SHAPES["ragged"], "fp16", biases="ud")

    def change(case, arrays, stages):
        return emulate(case.problem, arrays, mutant, tensor=True)

    pairs = judged(case, 3, change)
    verdicts = [pairs["torchfused", "oracle", stage].comparison.verdict for stage in ("s", "h", "y")]
    assert max(map(VERDICTS.index, verdicts)) > VERDICTS.index("FLIP_EXPLAINED")


def test_what_is_further_off_than_its_cause_is_not_explained():
    case = build("relu", (32, 64, 96, 48), "fp16")

    def change(case, arrays, stages):
        h = stages["h"].copy()
        row, column = np.argwhere(h > 1)[0]
        h[row, column] += 2 * np.spacing(h[row, column])
        return stages | {"h": h}

    pair = judged(case, 4, change, splits=1)["jaxfused", "torchfused", "h"]
    assert pair.comparison.verdict != "FLIP_EXPLAINED"


@pytest.mark.parametrize("dtype", ["fp32", "tf32"])
def test_float32_has_no_flips(dtype):
    pairs = judged(build("relu", SHAPES["ragged"], dtype), 5)
    assert all(pair.flips is None for pair in pairs.values())


def test_right_arithmetic_is_explained_for_many_seeds():
    case = build("gelu_tanh", (16, 96, 64, 48), "fp16", biases="ud")
    for seed in range(40):
        for key, pair in judged(case, seed, tensor=bool(seed % 2)).items():
            if key[2] in ("h", "y") and "oracle_pure" not in key and "oracle_step" not in key:
                assert pair.comparison.verdict in ("BIT_EQUAL", "FLIP_EXPLAINED"), (seed, key, pair)

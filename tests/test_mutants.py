"""Every way of being wrong is red; arithmetic that is right is not."""

import numpy as np
import pytest
from emulation import ACTIVATIONS, MUTANTS, emulate, gemm

from parity import stimulus
from parity.cases import SHAPES, build
from parity.judge import judge, prepare

BOTH = pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
FORMATS = pytest.mark.parametrize(
    ("dtype", "tensor"),
    [("fp32", False), ("fp16", False), ("fp16", True), ("bf16", True), ("tf32", False), ("tf32", True)],
    ids=["fp32", "fp16", "fp16-tensor", "bf16-tensor", "tf32", "tf32-tensor"],
)


def verdicts(case, seed, mutant="", tensor=False):
    arrays = stimulus.generate(case.problem, "normal", seed)
    results = {
        "jaxfused": emulate(case.problem, arrays, tensor=tensor),
        "torchfused": emulate(case.problem, arrays, mutant, tensor=tensor, splits=1 if mutant else 3),
    }
    return judge(case, prepare(case, arrays), results, "tensor" if tensor else "ieee")


@BOTH
@FORMATS
@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutant_is_red(mutant, dtype, tensor, gated):
    if mutant == "gate_up_swapped" and not gated:
        pytest.skip("a plain MLP has no gate")
    case = build("gelu_tanh", SHAPES["ragged"], dtype, gated=gated, biases="ugd" if gated else "ud")
    pairs = verdicts(case, 11, mutant, tensor)
    assert any(pair.red for pair in pairs if pair.a == "torchfused")
    assert not any(pair.red for pair in pairs if pair.a == "jaxfused" and pair.b.startswith("oracle"))


@FORMATS
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_right_arithmetic_is_never_red(activation, dtype, tensor):
    for seed in range(4 if tensor else 10):
        for gated in (False, True):
            case = build(activation, SHAPES["ragged"], dtype, gated=gated, biases="ugd" if gated else "ud")
            red = [(p.a, p.b, p.stage, p.comparison) for p in verdicts(case, seed, tensor=tensor) if p.red]
            assert not red


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("shape", ["ragged", "one-row", "one-of-all", "deep", "thin"])
def test_right_arithmetic_is_not_red_for_many_seeds(shape, dtype):
    for seed in range(60):
        case = build("gelu_tanh", SHAPES[shape], dtype, gated=bool(seed % 2), biases="ud")
        assert not any(pair.red for pair in verdicts(case, seed))


def test_the_bound_of_a_step_is_sharp():
    # What a right result uses of the energy bound of s, u and y: enough that a few times the error would be red.
    case = build("silu", (64, 256, 200, 64), "fp16")
    parts = {p.stage: p.comparison.energy for p in verdicts(case, 1) if (p.a, p.b) == ("jaxfused", "oracle_step")}
    assert all(parts[stage] > 0.02 for stage in ("s", "y"))


def test_tensor_cores_truncate_towards_zero():
    # The emulation shows what the tensor bound's bias term is for.
    generator = np.random.default_rng(0)
    x, w = (generator.standard_normal(shape).astype(np.float16).astype(np.float32) for shape in ((32, 512), (512, 32)))
    exact = x.astype(float) @ w.astype(float)
    error = gemm(x, w, tensor=True) - exact
    assert np.mean(error * np.sign(exact)) / np.mean(np.abs(error)) < -0.5


def test_twins_that_differ_in_one_bit_are_red_where_equality_is_demanded():
    case = build("gelu_tanh", SHAPES["ragged"], "fp16", biases="ud")
    arrays = stimulus.generate(case.problem, "normal", 3)
    one = emulate(case.problem, arrays)
    y = one["y"].copy()
    y[4, 2] = np.nextafter(y[4, 2], y.dtype.type(np.inf))
    other = one | {"y": y}
    for same, red in ((one, False), (other, True)):
        pairs = judge(case, prepare(case, arrays), {"jaxfused": one, "torchfused": same}, "ieee", twins_equal=True)
        assert any(pair.red for pair in pairs if (pair.a, pair.b) == ("jaxfused", "torchfused")) is red

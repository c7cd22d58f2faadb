"""Problem and Device: what is refused, by message, and the counts a floor is built from."""

import dataclasses
import re

import pytest

from parity.contract.activations import ACTIVATIONS, check_activation
from parity.contract.dtypes import DTYPES
from parity.contract.problem import Problem, smem_of

SIZES = {"m": 3, "in_features": 5, "hidden_features": 7, "out_features": 2}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"m": -1}, "m is -1, must be 0 or more"),
        ({"in_features": 0}, "in_features is 0, must be 1 or more"),
        ({"hidden_features": 0}, "hidden_features is 0, must be 1 or more"),
        ({"out_features": -4}, "out_features is -4, must be 1 or more"),
        ({"dtype": "float64"}, "dtype is float64, the kernels take float32, float16, bfloat16; cast x and the weights"),
        ({"dtype": "int32"}, "dtype is int32, the kernels take float32, float16, bfloat16"),
        ({"precision": "fast"}, "precision is 'fast', must be one of ieee, tf32"),
        ({"precision": "tf32", "dtype": "float16"}, 'precision="tf32" is for float32 inputs, these are float16; drop'),
        ({"bias_gate": True}, "bias_gate is set on a plain MLP; it belongs to a gated one"),
        ({"activation": "swish"}, "activation is 'swish', must be one of relu, relu2, gelu, gelu_tanh, "),
    ],
)
def test_refused(wrong, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Problem(**SIZES | wrong)


def test_unknown_activation_lists_every_one():
    with pytest.raises(ValueError, match=f"^activation is 'gelu_new', must be one of {', '.join(ACTIVATIONS)}$"):
        check_activation("gelu_new")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_known_activation_passes(name):
    check_activation(name)
    assert Problem(**SIZES, activation=name).activation == name


def test_counts_by_hand():
    plain = Problem(**SIZES, bias_up=True, bias_down=True, dtype="float16")
    assert plain.flops == 2 * 3 * (5 * 7 + 7 * 2)
    assert plain.weight_bytes == 2 * (5 * 7 + 7 * 2 + 7 + 2)
    assert plain.io_bytes == 2 * 3 * (5 + 2)
    assert plain.hidden_bytes == 2 * 3 * 7
    gated = Problem(**SIZES, gated=True, bias_gate=True)
    assert gated.flops == 2 * 3 * (2 * 5 * 7 + 7 * 2)
    assert gated.weight_bytes == 4 * (2 * 5 * 7 + 7 * 2 + 7)


@pytest.mark.parametrize("name", DTYPES)
def test_dtype_numbers_are_the_formats_own(name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    info, dtype = ml_dtypes.finfo(name), DTYPES[name]
    assert (dtype.bits, dtype.fraction, dtype.min_exponent) == (info.bits, info.nmant, info.minexp)
    assert dtype.unit_roundoff == float(info.eps) / 2
    assert dtype.smallest == float(info.smallest_subnormal)


def test_frozen():
    problem = Problem(**SIZES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.m = 4
    assert hash(problem) == hash(Problem(**SIZES))


def test_shared_memory_of_known_generations():
    assert smem_of((9, 0)) == 232448
    assert smem_of((8, 0)) == 166912
    assert smem_of((8, 9)) == smem_of((12, 0)) == 101376

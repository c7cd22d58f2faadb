"""Operands -> Problem, and what does not fit: each argument and each dim, in both layouts, by message."""

import re

import pytest

from parity.contract.request import Operand, problem_of

SHAPES = {"w_up": (7, 5), "w_down": (2, 7), "w_gate": (7, 5), "b_up": (7,), "b_gate": (7,), "b_down": (2,)}


def ask(layout="out_in", *, activation="gelu_tanh", precision="ieee", **changed):
    """A sound gated request, with some operands ``changed``: a shape, an Operand, or None for absent."""
    given = {"x": (3, 5), **SHAPES} | changed
    if layout == "in_out":
        given |= {name: given[name][::-1] for name in given if name.startswith("w_") and name not in changed}
    operands = {
        name: Operand(value, "float32", "cpu") if type(value) is tuple else value for name, value in given.items()
    }
    return problem_of(**operands, activation=activation, precision=precision, layout=layout)


@pytest.mark.parametrize("layout", ["out_in", "in_out"])
def test_sound_request(layout):
    problem = ask(layout, x=(4, 1, 3, 5), activation="silu", precision="tf32")
    assert (problem.m, problem.in_features, problem.hidden_features, problem.out_features) == (12, 5, 7, 2)
    assert problem.gated
    assert (problem.bias_up, problem.bias_gate, problem.bias_down) == (True, True, True)
    assert (problem.activation, problem.precision, problem.dtype) == ("silu", "tf32", "float32")
    plain = ask(layout, w_gate=None, b_gate=None, b_up=None, x=(5,))
    assert (plain.m, plain.gated, plain.bias_up, plain.bias_gate, plain.bias_down) == (1, False, False, False, True)
    assert ask(layout, x=(2, 0, 5)).m == 0


@pytest.mark.parametrize(
    ("layout", "changed", "message"),
    [
        ("out_in", {"x": ()}, "x is a scalar, must be [..., in_features]"),
        ("out_in", {"x": (3, 6)},
         "w_up has shape [7, 5]: its in dim (1) is 5, x's last dim is 6; it must be [out, in]"),
        ("in_out", {"x": (3, 6)},
         "w_up has shape [5, 7]: its in dim (0) is 5, x's last dim is 6; it must be [in, out]"),
        ("out_in", {"w_down": (7, 2)},
         "w_down has shape [7, 2]: its in dim (1) is 2, w_up's out dim is 7; it must be [out, in]"),
        ("in_out", {"w_down": (2, 7)},
         "w_down has shape [2, 7]: its in dim (0) is 2, w_up's out dim is 7; it must be [in, out]"),
        ("out_in", {"w_up": (7,)}, "w_up has shape [7], must be [out, in]"),
        ("in_out", {"w_up": (1, 5, 7)}, "w_up has shape [1, 5, 7], must be [in, out]"),
        ("out_in", {"w_down": (14,)}, "w_down has shape [14], must be [out, in]"),
        ("out_in", {"w_gate": (5, 7)}, "w_gate has shape [5, 7], must be w_up's [7, 5]"),
        ("out_in", {"w_gate": (7, 5, 1)}, "w_gate has shape [7, 5, 1], must be [out, in]"),
        ("out_in", {"b_up": (2,)}, "b_up has shape [2], must be [7], its weight's out dim"),
        ("out_in", {"b_up": (1, 7)}, "b_up has shape [1, 7], must be [7], its weight's out dim"),
        ("out_in", {"b_gate": (1,)}, "b_gate has shape [1], must be [7], its weight's out dim"),
        ("in_out", {"b_down": (7,)}, "b_down has shape [7], must be [2], its weight's out dim"),
        ("out_in", {"w_gate": None},
         "b_gate is given without w_gate: a plain MLP has no gate; pass w_gate as well or drop b_gate"),
        ("out_in", {"activation": "swish"}, "activation is 'swish', must be one of relu, relu2, gelu,"),
        ("out_in", {"precision": "high"}, "precision is 'high', must be one of ieee, tf32"),
    ],
)  # fmt: skip
def test_refused(layout, changed, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        ask(layout, **changed)


@pytest.mark.parametrize("name", SHAPES)
def test_mixed_dtypes_and_devices(name):
    half, away = Operand(SHAPES[name], "float16", "cpu"), Operand(SHAPES[name], "float32", "cuda:0")
    with pytest.raises(ValueError, match=rf"^{name} is float16 and x is float32: all operands must share one dtype$"):
        ask(**{name: half})
    with pytest.raises(ValueError, match=rf"^{name} is on cuda:0 and x is on cpu: move them to one device$"):
        ask(**{name: away})

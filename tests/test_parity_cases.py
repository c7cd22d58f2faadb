from itertools import combinations

import pytest

from parity.cases import BIASES, FORMS, PLANS, SHAPES, SUITES, build, known
from parity.contract.activations import ACTIVATIONS
from parity.contract.plan import DECODE_ROWS
from parity.contract.problem import Device
from parity.pairwise import cover

INTERPRETER = Device(kind="interpreter")
H200 = Device(kind="gpu", name="NVIDIA H200", sm_count=132, smem_bytes=232448, capability=(9, 0))


def features(case):
    """What a case is made of, as a reader would list it."""
    p = case.problem
    dtype = "tf32" if p.precision == "tf32" else p.dtype
    shape = (p.m, p.in_features, p.hidden_features, p.out_features)
    return {
        "activation": p.activation,
        "gated": p.gated,
        "up": p.bias_up,
        "gate": p.bias_gate,
        "down": p.bias_down,
        "dtype": dtype,
        "shape": shape,
        "plan": case.plan,
    }


def pairs_of(cases):
    return {pair for case in cases for pair in combinations(features(case).items(), 2)}


def test_core_crosses_activation_form_and_biases():
    core = {
        (c.problem.activation, c.problem.gated, c.problem.bias_up, c.problem.bias_gate, c.problem.bias_down)
        for c in SUITES["core"]()
        if c.stimulus == "normal" and c.skip_reason(INTERPRETER) is None
    }
    assert core >= {
        (name, gated, up, gate, down)
        for name in ACTIVATIONS
        for gated in BIASES
        for up in BIASES
        for gate in BIASES
        for down in BIASES
        if gated or not gate
    }


def test_core_covers_every_pair_on_the_cpu():
    found = pairs_of(c for c in SUITES["core"]() if c.stimulus == "normal" and c.skip_reason(INTERPRETER) is None)
    every = {
        "activation": list(ACTIVATIONS),
        "gated": [False, True],
        "up": BIASES,
        "down": BIASES,
        "dtype": ["float32", "tf32", "float16"],
        "shape": list(SHAPES.values()),
        "plan": list(PLANS.values()),
    }
    for (a, values_a), (b, values_b) in combinations(every.items(), 2):
        for left in values_a:
            for right in values_b:
                served = (a, b) != ("shape", "plan") or left[0] <= DECODE_ROWS or right.strategy != "decode"
                assert (((a, left), (b, right)) in found) == served


def test_the_pair_test_can_fail():
    assert pairs_of(SUITES["core"]()) - pairs_of(SUITES["core"]()[:50])


def test_names_are_unique_and_stay():
    for suite in SUITES.values():
        names = [case.name for case in suite()]
        assert len(names) == len(set(names))
    assert set(known()) >= {case.name for case in SUITES["core"]()}
    case = build("silu", SHAPES["ragged"], "fp16", gated=True, biases="ug", plan="split2")
    assert case.name == "silu-gated-ug-fp16-33x47x65x29-split2"
    assert case.seed == 1850051832


def test_bfloat16_is_skipped_by_an_interpreter_with_the_reason():
    case = build("silu", SHAPES["ragged"], "bf16")
    assert "bfloat16 is silently wrong in Triton's interpreter" in (case.skip_reason(INTERPRETER) or "")
    assert case.skip_reason(H200) is None


def test_the_round_trip_needs_no_kernel():
    assert build("identity", SHAPES["ragged"], "bf16", stimulus="special").skip_reason(INTERPRETER) is None


def test_a_language_models_layer_is_left_to_a_gpu():
    large = [c for c in SUITES["full"]() if c.problem.hidden_features == 14336]
    assert large
    assert all("too many for an interpreter; needs a GPU" in (c.skip_reason(INTERPRETER) or "") for c in large)
    assert all(c.skip_reason(H200) is None for c in SUITES["full"]())


def test_cover():
    factors = {"a": (1, 2, 3), "b": (1, 2, 3), "c": ("x", "y"), "d": (False, True)}
    rows = cover(factors, ("c",))
    assert {pair for row in rows for pair in combinations(row.items(), 2)} == {
        ((f, v), (g, w)) for f, g in combinations(factors, 2) for v in factors[f] for w in factors[g]
    }
    assert len(rows) <= 12
    assert len(cover(factors, ("a", "b", "c", "d"))) == 36


@pytest.mark.parametrize("form", FORMS)
def test_cover_leaves_out_what_is_not_allowed(form):
    rows = cover({"form": FORMS, "gate": BIASES}, ("form",), lambda row: row["form"] == "gated" or not row["gate"])
    assert {(r["form"], r["gate"]) for r in rows if r["form"] == form} <= {
        ("plain", False),
        ("gated", False),
        ("gated", True),
    }
    assert len(rows) == 3

"""Every way of being wrong in the backward is red; arithmetic that is right is not."""

import numpy as np
import pytest
from emulation import ACTIVATIONS, emulate
from emulation_backward import MUTANTS, emulate_backward

from parity import stimulus
from parity.backward import DERIVATIVES, evaluate_gradients
from parity.cases import SHAPES, Case, build
from parity.contract.saved import SAVES
from parity.judge import judge, prepare
from parity.oracle import FUNCTIONS

BOTH = pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
FORMATS = pytest.mark.parametrize(
    ("dtype", "tensor"),
    [("fp32", False), ("fp16", False), ("fp16", True), ("bf16", True), ("tf32", True)],
    ids=["fp32", "fp16", "fp16-tensor", "bf16-tensor", "tf32-tensor"],
)
GATED_ONLY = {"gate_up_swapped", "gate_left_out_of_dx", "factor_left_out"}


def draw(case: Case, seed: int) -> dict[str, np.ndarray]:
    arrays = stimulus.generate(case.problem, case.stimulus, seed)
    return arrays | {"dy": stimulus.upstream(case.problem, case.stimulus, seed)}


def run(case: Case, arrays, mutant="", *, tensor=False, splits=1):
    given = {name: array for name, array in arrays.items() if name != "dy"}
    forward = emulate(case.problem, given, tensor=tensor, splits=splits)
    return forward | emulate_backward(case.problem, arrays, forward, case.save, mutant, tensor=tensor)


def verdicts(case: Case, seed: int, mutant: str = "", *, tensor: bool = False):
    arrays = draw(case, seed)
    results = {
        "jaxfused": run(case, arrays, tensor=tensor),
        "torchfused": run(case, arrays, mutant, tensor=tensor, splits=1 if mutant else 3),
    }
    return judge(case, prepare(case, arrays), results, "tensor" if tensor else "ieee")


def square(dtype: str, gated: bool, save: str = "preact") -> Case:
    # Square, so that a transposed weight fits; ragged against every tile.
    return build("gelu_tanh", (37, 41, 41, 41), dtype, gated=gated, biases="ugd" if gated else "ud", save=save)


@BOTH
@FORMATS
@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutant_is_red(mutant, dtype, tensor, gated):
    if mutant in GATED_ONLY and not gated:
        pytest.skip("a plain MLP has no gate")
    pairs = verdicts(square(dtype, gated), 11, mutant, tensor=tensor)
    assert any(pair.red for pair in pairs if pair.a == "torchfused")
    assert not any(pair.red for pair in pairs if pair.a == "jaxfused" and pair.b.startswith("oracle"))


@FORMATS
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_right_arithmetic_is_never_red(activation, dtype, tensor):
    for seed in range(2 if tensor else 6):
        for gated in (False, True):
            biases = "ugd" if gated else "ud"
            case = build(activation, SHAPES["ragged"], dtype, gated=gated, biases=biases, save=SAVES[seed % 3])
            red = [(p.a, p.b, p.stage, p.comparison) for p in verdicts(case, seed, tensor=tensor) if p.red]
            assert not red


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("shape", ["one-row", "one-of-all", "deep", "thin", "empty"])
def test_right_arithmetic_is_not_red_for_many_seeds(shape, dtype):
    for seed in range(20):
        case = build("relu" if seed % 3 else "silu", SHAPES[shape], dtype, gated=bool(seed % 2), biases="ud")
        assert not any(pair.red for pair in verdicts(case, seed))


def test_the_bounds_of_the_steps_are_sharp():
    # What a right result uses of the energy bounds: enough that a few times the error would be red.
    case = build("silu", (64, 128, 96, 64), "fp16", gated=True, biases="ud")
    parts = {p.stage: p.comparison.energy for p in verdicts(case, 1) if (p.a, p.b) == ("jaxfused", "oracle_step")}
    assert all(parts[stage] > 0.02 for stage in ("d_s", "d_u", "d_x", "d_w_up", "d_w_gate", "d_w_down"))


@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_of_the_oracle_are_those_of_its_functions(name):
    s = np.linspace(-8.0, 8.0, 1601) + 1e-3
    step = 2.0**-17
    numeric = (FUNCTIONS[name](s + step) - FUNCTIONS[name](s - step)) / (2 * step)
    # Central differences: f''' h^2 / 6, and the cancellation of f's float64 rounding.
    allowed = 10.0 * step**2 + np.abs(FUNCTIONS[name](s)) * 2.0**-52 / step + 2.0**-52 / step
    assert (np.abs(DERIVATIVES[name](s) - numeric) <= allowed).all()
    assert np.isfinite(DERIVATIVES[name](np.array([-1e30, 1e30]))).all() or name == "relu2"


@BOTH
@pytest.mark.parametrize("save", SAVES)
def test_gradients_of_the_oracle_are_numeric_ones(gated, save):
    case = build("silu", (3, 4, 5, 2), "fp32", gated=gated, biases="ugd" if gated else "ud", save=save)
    arrays = draw(case, 5)
    reference = prepare(case, arrays)
    assert reference.dy is not None
    operands = reference.oracle.operands

    def y(changed):
        up = changed["x"] @ changed["w_up"] + changed["b_up"]
        h = FUNCTIONS["silu"](up)
        if gated:
            h = FUNCTIONS["silu"](changed["x"] @ changed["w_gate"] + changed["b_gate"]) * up
        return float(np.sum((h @ changed["w_down"] + changed["b_down"]) * reference.dy.astype(float)))

    found = evaluate_gradients(reference.oracle, arrays["dy"], save)
    step = 1e-6
    for name, operand in operands.items():
        for index in np.ndindex(operand.shape):
            shifted = [operands | {name: operand + delta * _unit(operand.shape, index)} for delta in (step, -step)]
            numeric = (y(shifted[0]) - y(shifted[1])) / (2 * step)
            # The oracle rounds s, u, h and what it gives to float32.
            scale = np.abs(found[f"d_{name}"]).max() + 1.0
            assert abs(found[f"d_{name}"][index] - numeric) <= 16 * scale * 2.0**-24 / step * 2.0**-8


def _unit(shape, index):
    unit = np.zeros(shape)
    unit[index] = 1.0
    return unit


def test_integers_demand_equality_where_they_are_exact():
    case = build("relu", SHAPES["one-over"], "fp32", gated=True, biases="ugd", stimulus="integer")
    arrays = draw(case, 3)
    reference = prepare(case, arrays)
    assert reference.demands == "BIT_EQUAL"
    one = run(case, arrays)
    off = one["d_w_up"].copy()
    off[3, 2] = np.nextafter(off[3, 2], np.float32(np.inf))
    for same, red in ((one, False), (one | {"d_w_up": off}, True)):
        pairs = judge(case, reference, {"jaxfused": one, "torchfused": same}, "ieee")
        assert any(pair.red for pair in pairs) is red


def test_twins_that_differ_in_one_bit_of_a_gradient_are_red_where_equality_is_demanded():
    case = square("fp16", True)
    arrays = draw(case, 3)
    one = run(case, arrays)
    off = one["d_x"].copy()
    off[4, 2] = np.nextafter(off[4, 2], off.dtype.type(np.inf))
    for same, red in ((one, False), (one | {"d_x": off}, True)):
        results = {"jaxfused": one, "torchfused": same}
        pairs = judge(case, prepare(case, arrays), results, "ieee", twins_equal=True)
        assert any(pair.red for pair in pairs if (pair.a, pair.b) == ("jaxfused", "torchfused")) is red

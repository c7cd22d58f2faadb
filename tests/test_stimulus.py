import hashlib

import numpy as np
import pytest

from parity import stimulus
from parity.cases import SHAPES, build, known
from parity.judge import prepare
from parity.rounding import NUMPY_DTYPES

INTEGER = [case for case in known().values() if case.stimulus == "integer"]


def problem(dtype="fp32"):
    return build("silu", SHAPES["ragged"], dtype, gated=True, biases="ugd").problem


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("kind", ["normal", "integer", "special"])
def test_the_seed_decides_every_byte(dtype, kind):
    first, again, other = (stimulus.generate(problem(dtype), kind, seed) for seed in (7, 7, 8))
    assert {name: array.tobytes() for name, array in first.items()} == {n: a.tobytes() for n, a in again.items()}
    assert all(first[name].tobytes() != other[name].tobytes() for name in first)
    assert {name: array.shape for name, array in first.items()} == stimulus.shapes(problem(dtype))


def test_the_bytes_are_the_same_on_every_machine():
    # Golden: a change here makes every earlier report incomparable.
    x = stimulus.generate(problem(), "normal", 7)["x"]
    assert hashlib.sha256(x.tobytes()).hexdigest()[:16] == "4cbb78e9d15963fd"


def test_a_bias_more_changes_no_other_array():
    without = build("silu", SHAPES["ragged"], gated=True, biases="").problem
    few, many = stimulus.generate(without, "normal", 7), stimulus.generate(problem(), "normal", 7)
    assert all(few[name].tobytes() == many[name].tobytes() for name in few)


def test_stages_are_of_order_one():
    case = build("identity", (64, 300, 200, 100), biases="ud")
    oracle = prepare(case, stimulus.generate(case.problem, "normal", 1)).oracle
    assert all(0.8 < float(np.std(oracle.rounded[stage])) < 1.25 for stage in ("s", "h", "y"))


def test_files_hold_the_bytes_and_nothing_else(tmp_path):
    arrays = stimulus.generate(problem("bf16"), "special", 3)
    for name, blob in stimulus.save(arrays, tmp_path).items():
        assert (tmp_path / f"{name}.bin").read_bytes() == arrays[name].tobytes()
        assert blob.sha256 == hashlib.sha256(arrays[name].tobytes()).hexdigest()
        assert stimulus.load(blob).tobytes() == arrays[name].tobytes()


def test_a_changed_file_is_refused(tmp_path):
    blob = stimulus.save(stimulus.generate(problem(), "normal", 3), tmp_path)["x"]
    (tmp_path / "x.bin").write_bytes(bytes(len((tmp_path / "x.bin").read_bytes())))
    with pytest.raises(ValueError, match=r"x\.bin has sha256 .* must have"):
        stimulus.load(blob)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_special_holds_what_a_copy_could_lose(dtype):
    case = build("identity", (64, 64, 64, 64), dtype)
    x = stimulus.generate(case.problem, "special", 1)["x"]
    tiny = np.finfo(np.float16).tiny if dtype == "fp16" else np.finfo(np.float32).tiny
    with np.errstate(invalid="ignore"):
        payloads = np.unique(x.view(f"u{x.itemsize}")[np.isnan(x)])
        wide = x.astype(np.float64)
    assert len(payloads) > 10
    assert np.isinf(wide).any()
    assert (np.signbit(wide) & (wide == 0)).any()
    assert ((np.abs(wide) < tiny) & (wide != 0)).any()


@pytest.mark.parametrize("case", INTEGER, ids=lambda case: case.name)
def test_integer_cases_are_exact(case):
    arrays = stimulus.generate(case.problem, "integer", case.seed)
    assert all(set(np.unique(array.astype(float))) <= {-1.0, 0.0, 1.0} for array in arrays.values())
    oracle = prepare(case, arrays).oracle
    assert all((oracle.pure[stage] == oracle.rounded[stage]).all() for stage in oracle.pure)
    assert all(np.unique(oracle.rounded[stage]).size > 2 for stage in ("s", "y"))


def test_an_inexact_integer_case_is_refused():
    case = build("relu2", (8, 4000, 64, 8), "fp16", stimulus="integer")
    with pytest.raises(ValueError, match="not exact in float16; use smaller sizes"):
        prepare(case, stimulus.generate(case.problem, "integer", 1))


def test_empty_batch(tmp_path):
    case = build("relu", SHAPES["empty"], "fp16")
    arrays = stimulus.generate(case.problem, "normal", 1)
    blob = stimulus.save(arrays, tmp_path)["x"]
    assert stimulus.load(blob).shape == (0, 20)
    assert arrays["w_up"].dtype == NUMPY_DTYPES["float16"]

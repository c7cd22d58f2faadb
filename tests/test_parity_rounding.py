from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from parity.contract.dtypes import DTYPES
from parity.rounding import NUMPY_DTYPES, ordinals, round_tf32, round_to, ulp


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_one_rounding_from_float64(dtype):
    target = NUMPY_DTYPES[dtype]
    a = np.arange(0x3C00, 0x3D00, dtype=np.uint16).view(target).astype(np.float64)
    b = np.arange(0x3C01, 0x3D01, dtype=np.uint16).view(target).astype(np.float64)
    middle = (a + b) / 2
    # So little above a tie that float32 would lose it: rounding twice rounds to even instead of up.
    above = middle * (1 + 2.0**-40)
    assert (round_to(above, dtype).astype(np.float64) == b).all()
    assert (round_to(-above, dtype).astype(np.float64) == -b).all()
    assert (round_to(middle * (1 - 2.0**-40), dtype).astype(np.float64) == a).all()
    even = np.arange(0x3C00, 0x3D00, dtype=np.uint16) % 2 == 0
    assert (round_to(middle, dtype).astype(np.float64) == np.where(even, a, b)).all()


def test_the_naive_cast_would_fail_that():
    above = (1 + 2.0**-8) * (1 + 2.0**-40)
    assert np.float64(above).astype(ml_dtypes.bfloat16) == 1.0
    assert round_to(np.array([above]), "bfloat16")[0] == 1.0 + 2.0**-7


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rounding_is_to_the_nearest(dtype):
    values = np.random.default_rng(0).standard_normal(300) * 10.0 ** np.random.default_rng(1).integers(-9, 5, 300)
    target = NUMPY_DTYPES[dtype]
    for value, found in zip(values, round_to(values, dtype), strict=True):
        if np.isinf(found):
            continue
        off = abs(Fraction(float(found)) - Fraction(value))
        unsigned = f"u{target.itemsize}"
        for step in (-1, 1):
            neighbour = (found[None].view(unsigned) + np.array(step).astype(unsigned)).view(target)[0]
            assert not np.isfinite(neighbour) or off <= abs(Fraction(float(neighbour)) - Fraction(value))


def test_overflow_goes_to_infinity():
    assert np.isinf(round_to(np.array([65520.0]), "float16"))[0]
    assert round_to(np.array([65519.99]), "float16")[0] == 65504


def test_tf32_rounds_ties_away_and_keeps_nan():
    tie, below = np.float32(1 + 2.0**-11), np.float32(1 + 2.0**-11 - 2.0**-23)
    nan = np.array([0x7FFFFFFF], np.uint32).view(np.float32)
    rounded = round_tf32(np.array([tie, -tie, below, nan[0], np.inf, -0.0], np.float32))
    assert rounded[:3].tolist() == [1 + 2.0**-10, -1 - 2.0**-10, 1.0]
    assert np.isnan(rounded[3])
    assert rounded[4] == np.inf
    assert np.signbit(rounded[5])
    assert round_tf32(nan).tobytes() == nan.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_ulp_and_ordinals_agree(dtype):
    target = NUMPY_DTYPES[dtype]
    values = np.array([0.0, 1.0, 1.5, -3.75, 1e-30 if dtype != "float16" else 3e-6]).astype(target)
    after = (values.view(f"u{target.itemsize}") + np.array(1).astype(f"u{target.itemsize}")).view(target)
    gap = np.abs(after.astype(np.float64) - values.astype(np.float64))
    assert (gap == ulp(values.astype(np.float64), dtype)).all()
    assert (np.abs(ordinals(after) - ordinals(values)) == 1).all()


def test_ordinals_meet_at_zero():
    smallest = DTYPES["float16"].smallest
    values = np.array([-smallest, -0.0, 0.0, smallest], np.float16)
    assert ordinals(values).tolist() == [-1, 0, 0, 1]

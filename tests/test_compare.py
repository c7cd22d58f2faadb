import numpy as np
import pytest

from parity.bounds import StageBound
from parity.compare import compare


def bound(shape, det=0.0, stat=0.0, energy=float("inf")):
    return StageBound(det=np.full(shape, det), stat=np.full(shape, stat), energy=energy)


def test_equal_bits():
    a = np.array([[1.0, -2.0, np.inf, np.nan]], np.float32)
    found = compare(a, a.copy(), bound(a.shape))
    assert (found.verdict, found.bit_equal, found.max_ulp, found.max_abs, found.bias) == (
        "BIT_EQUAL",
        1.0,
        0,
        0.0,
        0.0,
    )


def test_negative_zero_has_other_bits_but_no_error():
    found = compare(np.array([-0.0], np.float16), np.array([0.0], np.float16), bound(1))
    assert (found.verdict, found.bit_equal, found.max_ulp) == ("WITHIN_STAT", 0.0, 0)


@pytest.mark.parametrize(
    ("det", "stat", "verdict"), [(4.0, 4.0, "WITHIN_STAT"), (4.0, 2.0, "WITHIN_DET"), (2.0, 1.0, "FAIL")]
)
def test_ladder(det, stat, verdict):
    a, b = np.array([3.0, 1.0], np.float32), np.array([0.0, 1.0], np.float32)
    assert compare(a, b, bound(2, det, stat)).verdict == verdict


def test_energy_fails_what_no_element_does():
    a, b = np.ones(100, np.float16), np.full(100, 1 + 2.0**-10, np.float16)
    ulp = 2.0**-10
    assert compare(a, b, bound(100, ulp, ulp, energy=200 * ulp**2)).verdict == "WITHIN_STAT"
    found = compare(a, b, bound(100, ulp, ulp, energy=25 * ulp**2))
    assert (found.verdict, found.element, found.energy) == ("WITHIN_DET", 1.0, 2.0)


def test_numbers():
    a, b = np.array([[1.0, 2.0], [3.0, 5.0]], np.float32), np.array([[1.0, 2.0], [3.5, 4.0]], np.float32)
    found = compare(a, b, bound((2, 2), 1, 1))
    assert found.max_abs == 1.0
    assert found.at == (1, 1)
    assert found.bit_equal == 0.5
    assert found.bias == pytest.approx(0.5 / 1.5)
    assert found.rel_l2 == pytest.approx(np.sqrt(1.25) / np.linalg.norm(b))
    assert found.max_ulp == 2**21


def test_ulps_are_the_narrower_dtypes():
    wide, narrow = np.array([1 + 2.0**-12]), np.array([1 + 2.0**-10], np.float16)
    found = compare(wide, narrow, bound(1, 1, 1))
    assert found.max_ulp == 1
    assert found.max_abs == 2.0**-10 - 2.0**-12


def test_lonely_nan_fails():
    a, b = np.array([np.nan, 1.0], np.float16), np.array([1.0, 1.0], np.float16)
    for left, right in ((a, b), (b, a)):
        found = compare(left, right, bound(2, 9.0, 9.0))
        assert (found.verdict, found.max_ulp, found.max_abs) == ("FAIL", None, None)


def test_infinities():
    inf, most = np.array([np.inf], np.float16), np.array([65504.0], np.float16)
    assert compare(inf, inf, bound(1)).verdict == "BIT_EQUAL"
    assert compare(inf, most, bound(1, 32, 32)).verdict == "WITHIN_STAT"
    assert compare(inf, most, bound(1, 31, 31)).verdict == "FAIL"
    assert compare(inf, -inf, bound(1, 999, 999)).verdict == "FAIL"
    assert compare(np.array([1e9]), inf, bound(1)).verdict == "BIT_EQUAL"


def test_other_shapes_fail():
    assert compare(np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32), bound((3, 2), 1, 1)).verdict == "FAIL"


def test_empty():
    nothing = np.zeros((0, 4), np.float16)
    found = compare(nothing, nothing, bound((0, 4)))
    assert (found.verdict, found.bit_equal, found.max_abs) == ("BIT_EQUAL", 1.0, None)


def test_ulps_are_counted_in_doubling_bins():
    a = np.ones(9, np.float32)
    steps = np.array([0, 0, 1, 2, 3, 4, 5, 8, 9])
    b = (a.view(np.int32) + steps.astype(np.int32)).view(np.float32)
    assert compare(a, b, bound(9, 1.0, 1.0)).ulps == (2, 1, 1, 2, 2, 1)
    assert compare(a, a, bound(9, 1.0, 1.0)).ulps == (9,)
    assert compare(a[:0], a[:0], bound(0, 1.0, 1.0)).ulps == ()

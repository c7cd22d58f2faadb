"""How far two results of one stage are apart, and the verdict: the ladder of contract/tolerance.py."""

from dataclasses import dataclass

import numpy as np

from .bounds import StageBound
from .contract.dtypes import DTYPES
from .rounding import ordinals, round_to


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """``a`` against ``b``. Ulps are counted in the narrower of the two dtypes; None: a NaN stands against a number.

    ``bit_equal``: the fraction of elements with the same bits. ``at``: the index of ``max_abs``. ``bias``: mean signed
    error over mean absolute error. ``ulps``: how many elements are 0, 1, 2, up to 4, up to 8, ... ulps apart, without
    the zeros at the end. ``element``: the largest part of its statistical bound that an error uses (a flip of a
    rounding uses nearly all); ``energy``: the root of the part that all use together. 1 is the limit of both.
    """

    verdict: str
    bit_equal: float
    max_ulp: int | None
    p99_ulp: float | None
    rel_l2: float | None
    max_abs: float | None
    at: tuple[int, ...] | None
    bias: float | None
    element: float | None
    energy: float | None
    ulps: tuple[int, ...] = ()


def compare(a: np.ndarray, b: np.ndarray, bound: StageBound) -> Comparison:
    """Judges ``a`` against ``b``, arrays of the same shape, by ``bound`` (on the errors as they are, not narrowed).

    Equal infinities and NaN against NaN are no error. An infinity against a number counts as the power of two after
    the format's largest number: one rounding may tip a value at the edge.
    """
    if a.shape != b.shape:
        return Comparison(
            verdict="FAIL",
            bit_equal=0.0,
            max_ulp=None,
            p99_ulp=None,
            rel_l2=None,
            max_abs=None,
            at=None,
            bias=None,
            element=None,
            energy=None,
        )
    narrow_a, narrow_b, dtype = narrowed(a, b)
    same = same_bits(narrow_a, narrow_b)
    bit_equal = float(np.mean(same)) if same.size else 1.0
    nan_a, nan_b = np.isnan(a), np.isnan(b)
    lonely_nan = bool((nan_a != nan_b).any())
    error = _error(a, b, dtype)
    size = np.abs(error)
    peak = tuple(int(i) for i in np.unravel_index(int(np.argmax(size)), size.shape)) if size.size else None
    distance = np.where(nan_a | nan_b, 0, np.abs(ordinals(narrow_a) - ordinals(narrow_b)))
    norm = float(np.linalg.norm(np.where(np.isfinite(b), b.astype(np.float64), 0.0)))
    off = float(np.linalg.norm(error))
    element, energy = _parts(size, bound)
    if lonely_nan:
        verdict = "FAIL"
    elif bit_equal == 1.0:
        verdict = "BIT_EQUAL"
    elif max(element, energy) <= 1.0:
        verdict = "WITHIN_STAT"
    else:
        verdict = "WITHIN_DET" if (size <= bound.det).all() else "FAIL"
    return Comparison(
        verdict=verdict,
        bit_equal=bit_equal,
        max_ulp=None if lonely_nan else int(np.max(distance, initial=0)),
        p99_ulp=None if lonely_nan else float(np.percentile(distance, 99)) if distance.size else 0.0,
        rel_l2=_number(off / norm if norm else off),
        max_abs=None if lonely_nan or peak is None else float(size[peak]),
        at=peak,
        bias=_number(float(np.mean(error)) / float(np.mean(size))) if off else 0.0,
        element=None if lonely_nan else _number(element),
        energy=None if lonely_nan else _number(energy),
        ulps=_histogram(distance),
    )


def narrowed(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Both in the narrower of their dtypes, and its name; two float64 are compared as float32."""
    width = {name: dtype.bits for name, dtype in DTYPES.items()}
    dtype = min(a.dtype.name, b.dtype.name, key=lambda name: width.get(name, 64))
    dtype = dtype if dtype in width else "float32"
    return round_to(a, dtype), round_to(b, dtype), dtype


def same_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two results of one dtype have the same bits."""
    bits = f"u{a.dtype.itemsize}"
    # NaN is compared as a value: which NaN an invalid operation gives is the hardware's affair.
    return (np.ascontiguousarray(a).view(bits) == np.ascontiguousarray(b).view(bits)) | (np.isnan(a) & np.isnan(b))


def unlike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two results have other bits, in the narrower of their dtypes."""
    one, two, _ = narrowed(a, b)
    return ~same_bits(one, two)


def _histogram(distance: np.ndarray) -> tuple[int, ...]:
    # frexp gives the binade: 1 -> bin 1, 2 -> 2, 3 and 4 -> 3, as one is taken off before.
    binade = np.where(distance > 1, np.frexp(np.maximum(distance, 2) - 1)[1] + 1, distance)
    counts = np.bincount(binade.astype(np.int64).ravel())
    return tuple(int(count) for count in counts)


def _error(a: np.ndarray, b: np.ndarray, dtype: str) -> np.ndarray:
    edge = 2.0 ** (2 - DTYPES[dtype].min_exponent)
    x, y = (np.where(np.isinf(v), np.copysign(edge, v), v) for v in (a.astype(np.float64), b.astype(np.float64)))
    error = x - y
    # One side may be finite only in the wider dtype: what both round to the same infinity is no error.
    both = np.isinf(round_to(x, dtype)) & np.isinf(round_to(y, dtype)) & (np.sign(x) == np.sign(y))
    return np.where(np.isnan(a) | np.isnan(b) | both, 0.0, error)


def _parts(size: np.ndarray, bound: StageBound) -> tuple[float, float]:
    with np.errstate(divide="ignore", invalid="ignore"):
        element = np.max(np.where(size > 0, size / bound.stat, 0.0), initial=0.0)
        energy = np.sqrt(np.sum(size**2 * bound.weight) / np.float64(bound.energy)) if size.any() else 0.0
    # Errors without any weight leave 0 / 0: the elements have judged them.
    return float(element), float(np.nan_to_num(energy, posinf=np.inf))


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None

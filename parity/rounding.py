"""Roundings of the served formats in numpy: to nearest once, ulps, and the integer distance between two floats."""

import ml_dtypes
import numpy as np

from .contract.dtypes import DTYPES

NUMPY_DTYPES: dict[str, np.dtype] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
# (fraction bits, smallest normal exponent); tf32 is a precision of float32's range.
FORMATS = {name: (d.fraction, d.min_exponent) for name, d in DTYPES.items()} | {"tf32": (10, -126)}


def round_to(values: np.ndarray, dtype: str) -> np.ndarray:
    """``values`` in ``dtype``, rounded to nearest even once, as an array of that dtype.

    Float64 goes to bfloat16 through float32 rounded to odd: two roundings to nearest would break ties that are none.
    """
    values = np.asarray(values)
    with np.errstate(over="ignore"):
        if dtype == "bfloat16" and values.dtype == np.float64:
            values = _to_odd_float32(values)
        return values.astype(NUMPY_DTYPES[dtype])


def round_tf32(values: np.ndarray) -> np.ndarray:
    """Float32 rounded to 10 fraction bits, nearest, ties away from zero; NaN kept. Still float32."""
    values = np.ascontiguousarray(values, np.float32)
    bits = values.view(np.uint32)
    rounded = ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isnan(values), values, rounded)


def ulp(values: np.ndarray, form: str) -> np.ndarray:
    """The spacing of ``form`` ("tf32" or a dtype) in the binade of each value, in float64."""
    fraction, low = FORMATS[form]
    _, exponent = np.frexp(np.where(np.isfinite(values), values, 0.0))
    exponent = np.where(values == 0, low, exponent - 1)
    return np.ldexp(1.0, np.maximum(exponent, low) - fraction)


def ordinals(values: np.ndarray) -> np.ndarray:
    """Integers in the order of the floats: neighbours differ by one, -0 and +0 are both 0."""
    width = values.dtype.itemsize
    bits = np.ascontiguousarray(values).view(f"i{width}").astype(np.int64)
    return np.where(bits < 0, -(bits & (2 ** (8 * width - 1) - 1)), bits)


def _to_odd_float32(values: np.ndarray) -> np.ndarray:
    near = values.astype(np.float32)
    inexact = np.isfinite(near) & (near != values)
    even = (near.view(np.uint32) & 1) == 0
    toward = np.where(near < values, np.float32(np.inf), np.float32(-np.inf))
    return np.where(inexact & even, np.nextafter(near, toward), near)

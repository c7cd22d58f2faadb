"""How a matrix unit adds: the arithmetic of one node of a tree of summation, bit for bit, on whole arrays.

*IEEE float32*: ``fl(a + b)``, and where a product is added ``fl(a + x w)`` (contracted: fma) or ``fl(a + fl(x w))``.

*Fused* (tensor cores; models: MMA-Sim, arXiv 2511.10909; Khattak & Mikaitis, arXiv 2512.07004): with e the largest
exponent among the terms, a product's being the sum of its factors', and q = 2^(e - fraction),

    RZ(q sum_i trunc(t_i / q))        RZ: to float32, toward zero

No term is rounded but cut off at q, their sum is exact, and no zero comes out negative.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

F = np.float32
LOWEST = -126
# The exponent of a zero factor: far below all, and twice it is still an int16.
NOTHING = -8000
# What float64 holds beyond float32: 29 bits, of which the first one alone is half an ulp.
BEYOND, HALF = np.int64(2**29 - 1), np.int64(2**28)


@dataclass(frozen=True, kw_only=True, slots=True)
class Adder:
    """``terms``: products added at once, with the sum so far; 1: IEEE float32, one after the other. ``fraction`` and
    ``rounding`` (of the sum) are those of a fused add, ``contracted`` is of an IEEE one. ``tf32``: how inputs lose
    their last 13 bits, "away": to nearest, ties away from zero; "zero": cut off; None: they keep them. ``flush``:
    subnormal inputs and results are zeros. ``normalised``: a product's exponent is its own, not the sum of
    its factors'.

    Raises ValueError for a fused add of fewer than 20 fraction bits, or of more than 40: float64 may not hold the sum.
    """

    terms: int = 1
    fraction: int = 25
    rounding: Literal["zero", "nearest"] = "zero"
    contracted: bool = True
    tf32: Literal["away", "zero"] | None = None
    flush: bool = False
    normalised: bool = False

    def __post_init__(self) -> None:
        if self.fused and not 20 <= self.fraction <= 40:
            raise ValueError(f"fraction is {self.fraction}, must be 20 to 40")

    @property
    def fused(self) -> bool:
        return self.terms > 1

    def taken(self, values: np.ndarray) -> np.ndarray:
        """An operand as the unit takes it, in float32."""
        values = np.ascontiguousarray(values, F)
        if self.tf32:
            bits = values.view(np.uint32)
            bits = bits + np.uint32(0x1000) if self.tf32 == "away" else bits
            cut = (bits & np.uint32(0xFFFFE000)).view(F)
            values = np.where(np.isfinite(values), cut, values)
        return self.flushed(values)

    def flushed(self, values: np.ndarray) -> np.ndarray:
        return np.where(np.abs(values) < 2.0**LOWEST, F(0), values) if self.flush else values


IEEE = Adder()
AMPERE = Adder(terms=8, fraction=24)
# The compute capability whose tensor cores these are, by what the operands are.
EMULATED = 9, 0
HOPPER = {
    "float32": IEEE,
    "tf32": Adder(terms=8, tf32="away"),
    "float16": Adder(terms=16),
    "bfloat16": Adder(terms=16),
}


def add(adder: Adder, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``fl(a + b)`` of two sums."""
    return adder.flushed(a + b)


def add_product(adder: Adder, total: np.ndarray, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """``total + x w`` in IEEE float32; ``x`` ``[m, 1]`` and ``w`` ``[n]`` in float64."""
    product = x * w
    if adder.contracted:
        return adder.flushed(_rounded_sum(product, total))
    return adder.flushed(total + adder.flushed(product.astype(F)))


def add_fused(
    adder: Adder,
    totals: Sequence[np.ndarray],
    x: np.ndarray,
    w: np.ndarray,
    x_exponents: np.ndarray,
    w_exponents: np.ndarray,
) -> np.ndarray:
    """The fused sum of ``x w`` (``[m, t]`` and ``[t, n]`` in float64, their exponents in int16) and ``totals``."""
    largest = np.full((len(x), w.shape[1]), LOWEST, np.int16)
    some = np.empty_like(largest)
    for i in range(x.shape[1]):
        np.add(x_exponents[:, i, None], w_exponents[i], out=some)
        if adder.normalised:
            some += np.abs(x[:, i, None] * w[i]) >= np.ldexp(2.0, some.astype(np.int32))
        np.maximum(largest, some, out=largest)
    for total in totals:
        np.maximum(largest, exponents(total), out=largest)
    lift = largest.astype(np.int64)
    scale = _power(adder.fraction - lift)
    exact, term = np.zeros(scale.shape), np.empty(scale.shape)
    for total in totals:
        exact += np.trunc(np.multiply(total, scale, out=term), out=term)
    for i in range(x.shape[1]):
        np.multiply(x[:, i, None], w[i], out=term)
        np.multiply(term, scale, out=term)
        exact += np.trunc(term, out=term)
    exact *= _power(lift - adder.fraction)
    return adder.flushed((toward_zero(exact) if adder.rounding == "zero" else exact.astype(F)) + F(0))


def exponents(values: np.ndarray) -> np.ndarray:
    """The exponents of float32 values as int16; those of subnormals and zeros are the lowest normal one."""
    field = (np.ascontiguousarray(values, F).view(np.int32) >> 23) & 0xFF
    return np.maximum(field - 127, LOWEST).astype(np.int16)


def operand_exponents(values: np.ndarray, lowest: int) -> np.ndarray:
    """Those of an operand in a format whose lowest normal exponent is ``lowest``; a zero has none."""
    found = np.maximum(exponents(values), np.int16(lowest))
    return np.where(np.asarray(values) == 0, np.int16(NOTHING), found)


def toward_zero(values: np.ndarray) -> np.ndarray:
    """Float64 to float32, cut off; what reaches 2^128 is infinite."""
    cut = (np.ascontiguousarray(values).view(np.int64) & ~BEYOND).view(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        near = cut.astype(F)
    small = np.abs(cut) < 2.0**LOWEST
    if small.any():
        near[small] = np.trunc(cut[small] * 2.0**149) * 2.0**-149
    return near


def _rounded_sum(product: np.ndarray, total: np.ndarray) -> np.ndarray:
    """``fl(product + total)``, rounded to float32 once: float64's sum, or where that may lie between two float32
    because it was rounded itself, its rounding to odd."""
    wide = product + total
    with np.errstate(over="ignore", under="ignore"):
        near = wide.astype(F)
    unsure = ((wide.view(np.int64) & BEYOND) == HALF) | (np.abs(wide) < 2.0 ** (LOWEST + 1))
    if unsure.any():
        p, t, s = product[unsure], np.broadcast_to(total, wide.shape)[unsure].astype(float), wide[unsure]
        back = s - p
        lost = (p - (s - back)) + (t - back)
        even = (s.view(np.int64) & 1) == 0
        odd = np.where((lost != 0) & even, np.nextafter(s, np.copysign(np.inf, lost)), s)
        near[unsure] = odd.astype(F)
    return near


def _power(exponent: np.ndarray) -> np.ndarray:
    """``2^exponent`` in float64, for int64 exponents of its normal range."""
    return ((exponent + 1023) << 52).view(np.float64)

"""How far a correct result may be from the exact one: coefficients of the error bounds, derived here.

Notation: ``u`` the unit roundoff of the data type, ``e = 2^-24`` that of float32, ``n`` a GEMM's inner length.

**One GEMM element**, ``s = sum_k x_k w_k``. With ``A = sum |x_k w_k|`` and ``R = sqrt(sum (x_k w_k)^2)``:

*IEEE float32* (CUDA cores, CPUs): n roundings to nearest, each at most ``e |partial sum|``.

    det:  |ds| <= (n + 1) e A                             any order (Higham, gamma_n to first order)
    stat: |ds| <= LAMBDA sqrt(n + 1) e R                  mean-independent roundings (Higham & Mary 2019) of partial
                                                          sums that walk at random: their size is at most R

*Tensor cores*: ``q = ceil(n / 16)`` fused adds (8 terms each for tf32) of exact products and the accumulator, each
term truncated to 25 fraction bits below the largest exponent, the sum truncated to float32:

    det:  |ds| <= 5.25 q 2^-23 A                          one ulp for the sum, (16 + 1) 2^-2 ulp for the terms
    stat: |ds| <= (LAMBDA sqrt(q + (0.104 q)^2) R + 0.18 q |s|) 2^-23

Truncation is biased: an add loses 0.36 ulp of the partial sum p on average, q of them ``0.36 q mean(p)``. On its way to
s a walk of q steps has a mean of s / 2, give or take R / sqrt(12) (the area under a Brownian bridge): 0.18 q s, and
0.104 q R that adds in squares to the sqrt(q) R of the roundings themselves.

A bias adds ``e (|s| + |b|)``. tf32 rounds both inputs to 10 fraction bits: the oracle rounds them likewise, a runner
that truncates or does not round differs by up to ``2 * 2^-10 A``. XLA turns a one-row GEMM of 16-bit type into products
rounded to that type and their sum: up to ``u A``, ``u / sqrt(3) R`` in the mean.

**Activation**: ``|df| <= slope |ds| + rounding e max(|s|, |f|)`` (activations.py). A runner that evaluates it in the
data type pays ``UNFUSED_ROUNDINGS`` roundings of ``u`` instead.

**Rounding h and y to the data type** turns a small difference d into a whole ulp with probability ``min(1, d / ulp)``
(a flip), so an element may be off by one ulp, but few may: the energy of the differences, with ``d`` the root mean
square, is about ``sum (d^2 + ulp^2 min(1, d / ulp))``. It exceeds its mean with probability ``exp(-LAMBDA^2 / 2)`` by

    LAMBDA sqrt(2 sum d^4) + LAMBDA^2 max d^2                    Gaussian part (Laurent & Massart 2000, lemma 1)
    LAMBDA sqrt(sum p ulp^4) + LAMBDA^2 / 3 max ulp^2            flips of probability p (Bernstein)

A wrong formula below the rounding's size fails that, not the element bound.

Sources: Higham, Accuracy and Stability, 2002, sec. 3; Higham & Mary, SISC 41 (2019); Connolly, Higham & Mary, SISC 43
(2021); tensor-core truncation: Khattak & Mikaitis (arXiv 2512.07004), MMA-Sim (arXiv 2511.10909).
"""

import math
from dataclasses import dataclass
from typing import Literal

LAMBDA = 6.0
UNFUSED_ROUNDINGS = 8.0
FLOAT32_ROUNDOFF = 2.0**-24
# What truncation takes from a number, on average, in units of 2^-23 of its size: half an ulp, 1 / (2 ln 2) of 2^-23.
TRUNCATION = 0.25 / math.log(2.0)

Arithmetic = Literal["ieee", "tensor"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainBound:
    """Bounds of one GEMM element: ``det * A`` surely; ``stat * R + bias * |s|`` for data whose rounding errors do not
    conspire; ``rms * R + bias * |s|`` for their root mean square (``stat`` with LAMBDA = 1)."""

    det: float
    stat: float
    rms: float
    bias: float


def chain_bound(length: int, arithmetic: Arithmetic, terms: int = 16) -> ChainBound:
    """The coefficients for an inner length of ``length``; ``terms`` products enter a tensor core's fused add."""
    if arithmetic == "ieee":
        steps = length + 1
        walk, unit = math.sqrt(steps), FLOAT32_ROUNDOFF
        return ChainBound(det=steps * unit, stat=LAMBDA * walk * unit, rms=walk * unit, bias=0.0)
    adds = math.ceil(length / terms)
    walk, unit = math.hypot(math.sqrt(adds), TRUNCATION / math.sqrt(12.0) * adds), 2.0 * FLOAT32_ROUNDOFF
    return ChainBound(
        det=5.25 * adds * unit, stat=LAMBDA * walk * unit, rms=walk * unit, bias=TRUNCATION / 2.0 * adds * unit
    )


# The verdict ladder, best first. FLIP_EXPLAINED: within the statistical bounds, and no more elements of a 16-bit stage
# differ than what differs before its rounding must make (parity/flips.py).
VERDICTS = ("BIT_EQUAL", "FLIP_EXPLAINED", "WITHIN_STAT", "WITHIN_DET", "FAIL")

"""How many elements rounding to 16 bits must make differ, told from what differs before it: the verdict FLIP_EXPLAINED.

Two values that are ``d`` apart are rounded to different neighbours with probability ``min(1, d / ulp)``. Before h, d is
known from both results' own s, but for how the activation's steps round; before y, from both own h, but for how the
second GEMM's sums do. Those are the ``slack`` of each, a root mean square. Explained is a difference if

    every element is off by no more than one ulp beyond d,          |a - b| <= d + LAMBDA slack + ulp
    no more differ than expected, within chance (Bernstein),        n <= E + LAMBDA sqrt(E) + LAMBDA^2 / 3
    where                                                           E = sum min(1, sqrt(d^2 + slack^2) / ulp)

So an error that rounds elements otherwise without a cause before the rounding has no explanation, however small it is.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .bounds import Bounds, Profile
from .contract.activations import ACTIVATIONS
from .contract.dtypes import DTYPES
from .contract.tolerance import FLOAT32_ROUNDOFF, LAMBDA
from .oracle import FUNCTIONS, Stages, hidden
from .rounding import ulp

NARROW = tuple(name for name, dtype in DTYPES.items() if dtype.bits == 16)


@dataclass(frozen=True, kw_only=True, slots=True)
class Flips:
    """``observed`` elements differ, ``predicted`` are expected to, ``limit`` may; ``each``: every one is by an ulp."""

    predicted: float
    limit: float
    observed: int
    each: bool

    @property
    def explained(self) -> bool:
        return self.each and self.observed <= self.limit


def flips(bounds: Bounds, profiles: tuple[Profile, ...], a: Stages, b: Stages, stage: str) -> Flips | None:
    """Of h or y of two results of a 16-bit problem; ``profiles``: those of the results that round, one or two.

    None where it cannot be told: of another stage or dtype, where s was rounded itself, or where a stage is missing or
    not finite.
    """
    problem = bounds.problem
    if stage not in ("h", "y") or problem.dtype not in NARROW:
        return None
    names = ("s", "u", "h", "y") if problem.gated else ("s", "h", "y")
    if any(name not in taken for taken in (a, b) for name in names):
        return None
    taps = [taken[name] for taken in (a, b) for name in names]
    if any(tap.dtype.itemsize < 4 for tap in (a["s"], b["s"])) or not all(np.isfinite(tap).all() for tap in taps):
        return None
    apart, slack = _hidden(bounds, len(profiles), a, b) if stage == "h" else _down(bounds, profiles, a, b)
    one, two = (taken[stage].astype(np.float64) for taken in (a, b))
    size, sizes = np.abs(one - two), (np.abs(one), np.abs(two))
    low, high = (ulp(edge(*sizes), problem.dtype) for edge in (np.minimum, np.maximum))
    expected = float(np.sum(np.minimum(1.0, np.hypot(apart, slack) / low)))
    return Flips(
        predicted=expected,
        limit=expected + LAMBDA * math.sqrt(expected) + LAMBDA**2 / 3,
        observed=int(np.count_nonzero(size)),
        each=bool((size <= apart + LAMBDA * slack + high).all()),
    )


def _hidden(bounds: Bounds, rounding: int, a: Stages, b: Stages) -> tuple[np.ndarray, np.ndarray]:
    problem = bounds.problem
    f = FUNCTIONS[problem.activation]
    s, t = (taken["s"].astype(np.float64) for taken in (a, b))
    u, v = (taken["u"].astype(np.float64) if problem.gated else None for taken in (a, b))
    apart = np.abs(hidden(problem, s, u) - hidden(problem, t, v))
    value = np.abs(f(s))
    slack = ACTIVATIONS[problem.activation].rounding * FLOAT32_ROUNDOFF * np.maximum(np.abs(s), value)
    if u is not None:
        slack = np.abs(u) * (slack + FLOAT32_ROUNDOFF * value)
    return apart, math.sqrt(rounding) * slack


def _down(
    bounds: Bounds, profiles: tuple[Profile, ...], a: Stages, b: Stages
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    change = (a["h"].astype(np.float64) - b["h"].astype(np.float64)).astype(bounds.number)
    apart = np.zeros(a["y"].shape)
    if change.any():
        apart = np.abs(change @ bounds.oracle.operands["w_down"].astype(bounds.number)).astype(np.float64)
    return apart, np.sqrt(sum(_squares(bounds, profiles), np.zeros(apart.shape)))


def _squares(bounds: Bounds, profiles: tuple[Profile, ...]) -> Iterator[np.ndarray]:
    for profile in profiles:
        yield bounds.down_error(profile).rms ** 2

"""How far each stage of a runner may be from the oracle with rounded h: arrays from contract/tolerance.py's terms.

A ``Drift`` is an error on its way through the stages. An ``Allowance`` is what one runner is allowed at one stage, a
``StageBound`` what two results are judged by: bounds of each element, and of the energy of all errors together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .contract.activations import ACTIVATIONS
from .contract.dtypes import DTYPES
from .contract.plan import Plan
from .contract.tolerance import (
    FLOAT32_ROUNDOFF,
    LAMBDA,
    UNFUSED_ROUNDINGS,
    Arithmetic,
    ChainBound,
    chain_bound,
)
from .oracle import FUNCTIONS, Oracle, Stages
from .rounding import ulp

LARGE_FLOPS = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """How a runner rounds. ``fused``: s and u stay float32, the activation is evaluated in it, tf32 inputs are rounded
    as the oracle does; otherwise each operation rounds to the dtype and tf32 is the library's affair."""

    fused: bool
    arithmetic: Arithmetic = "ieee"


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """Bounds of an error, elementwise: ``det`` surely, ``stat`` for rounding errors that do not conspire, ``rms`` of
    its root mean square."""

    det: np.ndarray
    stat: np.ndarray
    rms: np.ndarray

    def plus(self, det: np.ndarray, stat: np.ndarray | None = None, rms: np.ndarray | None = None) -> "Drift":
        """Another error on top; one argument stands for all three."""
        stat, rms = (det if stat is None else stat), (det if rms is None else rms)
        return Drift(det=self.det + det, stat=self.stat + stat, rms=self.rms + rms)

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "Drift":
        return Drift(det=function(self.det), stat=function(self.stat), rms=function(self.rms))


@dataclass(frozen=True, kw_only=True, slots=True)
class Flips:
    """Jumps of one ``step``, each with probability ``chance``; ``reach`` is how many outputs one changes, and how much:
    the sum of the squares of its factors (the rows of W_down for a flip of h)."""

    chance: np.ndarray
    step: np.ndarray
    reach: np.ndarray | float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowance:
    """What one runner may be off by at one stage. ``own``: the mean squares of errors independent of each other;
    ``inherited``: those of errors that hang together in a row, being the errors of one row of h, and its ``jumps``;
    ``flips``: those of the last rounding."""

    det: np.ndarray
    stat: np.ndarray
    own: np.ndarray
    inherited: np.ndarray | None = None
    jumps: Flips | None = None
    flips: Flips | None = None

    @property
    def scale(self) -> np.ndarray:
        """The square of an ordinary error's size: what the energy counts it in."""
        total = self.own if self.inherited is None else self.own + self.inherited
        return total if self.flips is None else total + self.flips.step**2

    def energy(self, weight: np.ndarray) -> float:
        """What ``sum(weight error^2)`` may reach."""
        parts = [_gaussian(self.own * weight)]
        if self.inherited is not None:
            parts.append(_gaussian(np.sum(self.inherited * weight, axis=1)))
        if self.jumps is not None:
            # W_down and the weights are independent: a flip's reach takes the row's mean weight.
            parts[-1] += _excess(self.jumps, weight.mean(axis=1, keepdims=True))
        if self.flips is not None:
            mean = float(np.sum(np.nan_to_num(self.flips.chance) * self.flips.step**2 * weight))
            parts.append(mean + _excess(self.flips, weight))
        return _join(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class StageBound:
    """``det`` and ``stat`` bound each element's error, ``energy`` the sum of ``weight error^2``."""

    det: np.ndarray
    stat: np.ndarray
    weight: np.ndarray = field(default_factory=lambda: np.ones(()))
    energy: float = float("inf")


def between(a: Allowance, b: Allowance) -> StageBound:
    """The bound of two results' distance, each of which is allowed its own from the oracle.

    The weight makes all ordinary errors count alike: unweighted, the few largest elements would hide a wrong rounding
    of all others.
    """
    scale = np.maximum(a.scale, b.scale)
    sure = np.isfinite(scale) & (scale > 0)
    weight = np.where(sure, 1.0 / np.where(sure, scale, 1.0), 0.0)
    return StageBound(
        det=a.det + b.det,
        stat=a.stat + b.stat,
        weight=weight,
        energy=_join([a.energy(weight), b.energy(weight)]),
    )


class Bounds:
    """The allowances of one case, for every kind of runner; what they share is computed once."""

    def __init__(self, oracle: Oracle, plan: Plan | None = None) -> None:
        self.oracle, self.problem = oracle, oracle.problem
        self.dtype = DTYPES[self.problem.dtype]
        self.format = "tf32" if self.problem.precision == "tf32" else self.problem.dtype
        self.splits = (plan or Plan()).splits
        operands = oracle.operands
        # Sums of sizes lose nothing that a bound needs in float32; a large layer's take half the time.
        self.number = np.float32 if self.problem.flops > LARGE_FLOPS else np.float64
        self.up = self._magnitudes(operands["x"], "w_up")
        self.gate = self._magnitudes(operands["x"], "w_gate") if self.problem.gated else self.up
        self.down = self._magnitudes(oracle.hidden, "w_down")
        self.w_abs = np.abs(operands["w_down"].astype(self.number))
        self.w_square = self.w_abs**2

    def exact(self) -> dict[str, Allowance]:
        """The oracle's own: it is not off by anything."""
        zeros = {stage: np.zeros(values.shape) for stage, values in self.oracle.rounded.items()}
        return {stage: Allowance(det=zero, stat=zero, own=zero) for stage, zero in zeros.items()}

    def pure(self) -> dict[str, Allowance]:
        """The pure oracle's: no rounding of h (nor of y), where the reference has one, uniform in half an ulp."""
        rounded = self.oracle.rounded
        h = ulp(rounded["h"], self.problem.dtype)
        step = h + (ulp(rounded["h"], "tf32") if self.format == "tf32" else 0.0)
        through = self._through(Drift(det=step / 2, stat=step / 2, rms=step / np.sqrt(12)))
        last = ulp(rounded["y"], self.problem.dtype)
        found = self.exact()
        found["h"] = Allowance(det=h / 2, stat=h / 2, own=h**2 / 12)
        found["y"] = Allowance(
            det=through.det + last / 2,
            stat=through.stat + last / 2,
            own=last**2 / 12,
            inherited=through.rms**2,
        )
        return {stage: _finite(allowance, rounded[stage]) for stage, allowance in found.items()}

    def of(self, profile: Profile, *, after: Stages | None = None) -> dict[str, Allowance]:
        """A runner's allowances. ``after``: those of each stage by itself, against the oracle applied to the runner's
        own previous stage; the spacing of h and y is then that of these values, which may lie in another binade."""
        rounded = self.oracle.rounded if after is None else after
        with np.errstate(all="ignore"):
            s, u = self.before(profile)
            found = {"s": _plain(s)} | ({"u": _plain(u)} if u else {})
            before = (s, u) if after is None else (s.map(np.zeros_like), u and u.map(np.zeros_like))
            h = self.hidden(profile, *before)
            found["h"] = self._round(h, rounded["h"])
            down = self._gemm(profile, self.down, rounded["y"], "b_down", 1)
            found["y"] = self._round(down, rounded["y"], h if after is None else None)
        return {stage: _finite(allowance, rounded[stage]) for stage, allowance in found.items()}

    def down_error(self, profile: Profile) -> Drift:
        """The error of the second GEMM by itself, before y is rounded."""
        with np.errstate(all="ignore"):
            return self._gemm(profile, self.down, self.oracle.rounded["y"], "b_down", 1)

    def _pre(self, profile: Profile, stage: str) -> Drift:
        layer = "gate" if self.problem.gated and stage == "s" else "up"
        magnitudes = self.gate if layer == "gate" else self.up
        return self._gemm(profile, magnitudes, self.oracle.rounded[stage], f"b_{layer}", 0)

    def _gemm(
        self,
        profile: Profile,
        magnitudes: tuple[np.ndarray, np.ndarray],
        result: np.ndarray,
        bias: str,
        index: int,
    ) -> Drift:
        """The error of one GEMM and its bias, its inputs taken as exact."""
        problem = self.problem
        total, root = magnitudes
        length = (problem.in_features, problem.hidden_features)[index]
        chain = self.chain(profile, length, self.splits[index])
        b = self.oracle.operands.get(bias)
        lost = chain.bias * np.abs(result if b is None else result - b)
        drift = Drift(det=chain.det * total, stat=chain.stat * root + lost, rms=chain.rms * root + lost)
        if b is not None:
            drift = drift.plus(FLOAT32_ROUNDOFF * (np.abs(result) + np.abs(b)))
        if not profile.fused:
            if problem.precision == "tf32":
                drift = drift.plus(2.0**-9 * total, LAMBDA * 2.0**-10 * root, 2.0**-10 * root)
            elif problem.m == 1 and problem.dtype != "float32":
                u = self.dtype.unit_roundoff
                drift = drift.plus(u * total, LAMBDA * u / np.sqrt(3) * root, u / np.sqrt(3) * root)
            sizes = np.abs(result) + (0.0 if b is None else np.abs(result - b))
            drift = drift.plus(self.dtype.unit_roundoff * sizes + self.dtype.smallest)
        return drift

    def before(self, profile: Profile) -> tuple[Drift, Drift | None]:
        """The errors of s and, when gated, u."""
        with np.errstate(all="ignore"):
            return self._pre(profile, "s"), self._pre(profile, "u") if self.problem.gated else None

    def chain(self, profile: Profile, length: int, splits: int = 1, *, ieee: bool = False) -> ChainBound:
        """The bound of a product of this inner length; ``ieee``: whatever the precision, in IEEE float32."""
        # On a GPU only IEEE float32 avoids the tensor cores. Each further chain of a split is one more addition.
        arithmetic = profile.arithmetic if self.format != "float32" and not ieee else "ieee"
        terms = 8 if self.format == "tf32" else 16
        extra = splits - 1 if arithmetic == "ieee" else terms * (splits - 1)
        return chain_bound(length + extra, arithmetic, terms)

    def hidden(self, profile: Profile, s: Drift, u: Drift | None) -> Drift:
        """The error of h before its rounding."""
        activation = ACTIVATIONS[self.problem.activation]
        at, up = np.abs(self.oracle.rounded["s"]), self.oracle.rounded.get("u")
        value = np.abs(FUNCTIONS[self.problem.activation](self.oracle.rounded["s"]))
        size = np.maximum(at, value)
        spelling = activation.rounding * FLOAT32_ROUNDOFF * size
        if not profile.fused:
            spelling = UNFUSED_ROUNDINGS * self.dtype.unit_roundoff * size + self.dtype.smallest

        def carry(error: np.ndarray) -> np.ndarray:
            slope = 2.0 * at + error if activation.slope is None else activation.slope
            return slope * error + spelling

        f = s.map(carry)
        if u is None or up is None:
            return f
        up = np.abs(up)
        last = (FLOAT32_ROUNDOFF if profile.fused else self.dtype.unit_roundoff) * value * up
        return Drift(
            det=up * f.det + value * u.det + f.det * u.det + last,
            stat=up * f.stat + value * u.stat + f.stat * u.stat + last,
            rms=up * f.rms + value * u.rms + f.rms * u.rms + last,
        )

    def _magnitudes(self, left: np.ndarray, weight: str) -> tuple[np.ndarray, np.ndarray]:
        """A = |x| |W| and R = sqrt(x^2 W^2)."""
        left, right = np.abs(left.astype(self.number)), np.abs(self.oracle.operands[weight].astype(self.number))
        with np.errstate(all="ignore"):
            return (left @ right).astype(np.float64), np.sqrt((left**2 @ right**2).astype(np.float64))

    def _through(self, h: Drift) -> Drift:
        """An error of h, as the second GEMM's error."""
        h = h.map(lambda error: np.where(np.isfinite(error), error, 0.0))
        rms = np.sqrt(((h.rms**2).astype(self.number) @ self.w_square).astype(np.float64))
        det = (h.det.astype(self.number) @ self.w_abs).astype(np.float64)
        return Drift(det=det, stat=np.minimum(LAMBDA * rms, det), rms=rms)

    def _handed_on(self, h: Drift) -> tuple[Drift, Flips]:
        """What y inherits from h's error and its rounding's flips."""
        step = ulp(np.abs(self.oracle.rounded["h"]) + h.stat, self.format)
        chance = np.minimum(1.0, h.rms / step)
        through = self._through(Drift(det=h.det + step, stat=h.stat + step, rms=np.sqrt(h.rms**2 + chance * step**2)))
        largest = np.max(np.where(chance > 0, step, 0.0), axis=1, initial=0.0, keepdims=True) * self.w_abs.max(axis=0)
        stat = np.minimum(through.stat + LAMBDA**2 / 3 * largest, through.det)
        flips = Flips(chance=chance, step=step, reach=self.w_square.sum(axis=1))
        return Drift(det=through.det, stat=stat, rms=through.rms), flips

    def _round(self, drift: Drift, result: np.ndarray, h: Drift | None = None) -> Allowance:
        """The error after both sides were rounded to the dtype; ``h``: the error of h that comes on top."""
        own, inherited, jumps = drift.rms**2, None, None
        if h is not None:
            through, jumps = self._handed_on(h)
            inherited = through.rms**2
            drift = Drift(det=drift.det + through.det, stat=drift.stat + through.stat, rms=np.sqrt(own + inherited))
        step = ulp(np.abs(result) + drift.stat, self.problem.dtype)
        return Allowance(
            det=drift.det + step,
            stat=np.minimum(drift.stat, drift.det) + step,
            own=own,
            inherited=inherited,
            jumps=jumps,
            flips=Flips(chance=np.minimum(1.0, drift.rms / step), step=step),
        )


def _plain(drift: Drift) -> Allowance:
    return Allowance(det=drift.det, stat=np.minimum(drift.stat, drift.det), own=drift.rms**2)


def _finite(allowance: Allowance, values: np.ndarray) -> Allowance:
    """No error is allowed where the oracle is not finite: overflow and NaN must be met exactly."""
    sure = np.isfinite(values)

    def kept(array: np.ndarray) -> np.ndarray:
        return np.where(sure & np.isfinite(array), array, 0.0)

    return Allowance(
        det=kept(allowance.det),
        stat=kept(allowance.stat),
        own=kept(allowance.own),
        inherited=None if allowance.inherited is None else kept(allowance.inherited),
        jumps=allowance.jumps,
        flips=allowance.flips and Flips(chance=kept(allowance.flips.chance), step=kept(allowance.flips.step)),
    )


def _gaussian(squares: np.ndarray) -> float:
    """What a sum of independent squared errors of these means may reach (Laurent & Massart)."""
    spread = LAMBDA * np.sqrt(2.0 * np.sum(squares**2))
    return float(np.sum(squares) + spread + LAMBDA**2 * np.max(squares, initial=0.0))


def _excess(flips: Flips, weight: np.ndarray) -> float:
    """By how much the energy of rare jumps may exceed its mean (Bernstein)."""
    chance = np.nan_to_num(flips.chance)
    energy = np.where(chance > 0, np.nan_to_num(flips.step**2 * flips.reach * weight, posinf=0.0), 0.0)
    spread = LAMBDA * np.sqrt(np.sum(chance * energy**2))
    return float(spread + LAMBDA**2 / 3 * np.max(energy, initial=0.0))


def _join(energies: Sequence[float]) -> float:
    """The energy of a sum of errors: their root mean squares add at most."""
    return float(np.sum(np.sqrt(energies)) ** 2)

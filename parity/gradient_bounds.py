"""How far each gradient of a runner may be from the oracle's: arrays from contract/tolerance.py's terms.

``steps``: each stage against the oracle applied to the runner's own previous ones. One GEMM, one epilogue, one
rounding: bounds of elements and energy as sharp as the forward's. ``whole``: from the operands on. An error of s passes
through the derivative's slope (``curvature``), or crosses the jump of one that jumps; those of s, u, h, d_s and d_u
pass through the GEMMs. Elements only: the steps have judged the energy.
"""

import numpy as np

from .backward import DERIVATIVES
from .bounds import Allowance, Bounds, Drift, Flips, Profile, StageBound
from .contract.activations import ACTIVATIONS
from .contract.tolerance import FLOAT32_ROUNDOFF, LAMBDA, UNFUSED_ROUNDINGS
from .oracle import Stages, hidden
from .rounding import ulp


class GradientBounds:
    """The bounds of one case's gradients; what every kind of runner shares is computed once."""

    def __init__(self, bounds: Bounds, dy: np.ndarray, gradients: Stages) -> None:
        self.bounds, self.problem, self.gradients = bounds, bounds.problem, gradients
        number, operands = bounds.number, bounds.oracle.operands
        gated = self.problem.gated
        d_s = gradients["d_s"]
        d_u = gradients["d_u"] if gated else d_s
        x, h = operands["x"], bounds.oracle.hidden
        self.left = {"d_w_up": (x.T, d_u), "d_w_down": (h.T, dy)} | ({"d_w_gate": (x.T, d_s)} if gated else {})
        pairs = {name: [pair] for name, pair in self.left.items()}
        pairs["dh"] = [(dy, operands["w_down"].T)]
        pairs["d_x"] = [(d_u, operands["w_up"].T)] + ([(d_s, operands["w_gate"].T)] if gated else [])
        ones = np.ones((1, self.problem.m))
        for name, d in (("d_b_up", d_u), ("d_b_gate", d_s), ("d_b_down", dy)):
            if name in gradients:
                pairs[name] = [(ones, d)]
        self.sizes = {name: _sizes(pair, number) for name, pair in pairs.items()}
        with np.errstate(all="ignore"):
            self.dh = dy.astype(np.float64) @ operands["w_down"].T

    def steps(self, profile: Profile, after: Stages) -> dict[str, Allowance]:
        """Allowances against ``after``, the oracle applied to a fused runner's own previous stages."""
        found = self._inner(profile, None, None)
        found |= {name: self._gemm(profile, name) for name in after if name not in found}
        return {name: self._round(found[name], after[name]) for name in after}

    def whole(self, profile: Profile) -> dict[str, StageBound]:
        """Bounds of the distance from the oracle that starts at the operands."""
        with np.errstate(all="ignore"):
            s, u = self.bounds.before(profile)
            inner = self._inner(profile, self._flipped(s, "s"), u and self._flipped(u, "u"))
            h = self._hidden(profile, s, u)
            found = dict(inner)
            inner = {name: self._flipped(drift, name, self.gradients[name]) for name, drift in inner.items()}
            d_s = inner["d_s"]
            d_u = inner["d_u"] if self.problem.gated else d_s
            handed = {"d_w_up": d_u, "d_w_gate": d_s, "d_b_up": d_u, "d_b_gate": d_s, "d_w_down": h}
            for name in self.gradients:
                if name not in found:
                    found[name] = self._sum(self._gemm(profile, name), self._handed(name, handed, d_s, d_u))
            rounded = {name: self._round(drift, self.gradients[name]) for name, drift in found.items()}
        return {
            name: StageBound(
                det=_kept(allowed.det, self.gradients[name]), stat=_kept(allowed.stat, self.gradients[name])
            )
            for name, allowed in rounded.items()
            if profile.fused or name not in ("d_s", "d_u")
        }

    def _inner(self, profile: Profile, s: Drift | None, u: Drift | None) -> dict[str, Drift]:
        """d_s and d_u before their rounding, with the errors of s and u, if they have any."""
        problem, activation = self.problem, ACTIVATIONS[self.problem.activation]
        forward = self.bounds.oracle.rounded
        at = np.nan_to_num(forward["s"])
        f, slope = (np.abs(g(at)) for g in (lambda s: hidden(problem, s, None), DERIVATIVES[problem.activation]))
        dh, unit = np.abs(np.nan_to_num(self.dh)), self.bounds.dtype.unit_roundoff
        steep = slope if activation.slope is None else np.full_like(slope, activation.slope)
        error = self._gemm(profile, "dh")
        if profile.fused:
            spelled, rounds = activation.slope_rounding * FLOAT32_ROUNDOFF * steep, 3.0 * FLOAT32_ROUNDOFF
            spelled_f = activation.rounding * FLOAT32_ROUNDOFF * np.maximum(np.abs(at), f)
        else:
            # dh, the product with u and the result are rounded to the dtype, the derivative is evaluated in it.
            spelled, rounds = UNFUSED_ROUNDINGS * unit * (steep + slope * np.abs(at)), 4.0 * unit
            spelled_f = UNFUSED_ROUNDINGS * unit * np.maximum(np.abs(at), f)
        up = np.abs(np.nan_to_num(forward["u"])) if problem.gated else np.ones_like(at)

        def derivative(error: np.ndarray) -> np.ndarray:
            if activation.curvature is None:
                return spelled + np.where(np.abs(at) <= error, 1.0, 0.0)
            return spelled + activation.curvature * error

        def d_s(part: str) -> np.ndarray:
            of_dh = getattr(error, part)
            of_slope = derivative(getattr(s, part)) if s else spelled
            of_up = getattr(u, part) if u else 0.0
            total = (dh + of_dh) * (up + of_up) * (slope + of_slope)
            return total - dh * up * slope + rounds * total

        def d_u(part: str) -> np.ndarray:
            of_f = spelled_f + (self._carried(getattr(s, part), at, activation.slope) if s else 0.0)
            total = (dh + getattr(error, part)) * (f + of_f)
            return total - dh * f + rounds * total

        found = {"d_s": Drift(det=d_s("det"), stat=d_s("stat"), rms=d_s("rms"))}
        if problem.gated:
            found["d_u"] = Drift(det=d_u("det"), stat=d_u("stat"), rms=d_u("rms"))
        return found

    def _hidden(self, profile: Profile, s: Drift, u: Drift | None) -> Drift:
        """The error of the h that enters d_w_down: the forward's, or that computed from rounded s and u."""
        value = self.bounds.oracle.rounded["h"]
        forward = self.bounds.hidden(profile, self._flipped(s, "s"), u and self._flipped(u, "u"))
        drift = self._flipped(forward, "h", value)
        if profile.fused:
            return drift
        # An unfused runner keeps the forward's h, which rounds neither s nor u before: half an ulp of each more.
        half = {
            name: ulp(self.bounds.oracle.rounded[name], self.problem.dtype) / 2
            for name in ("s", "u")
            if name in self.bounds.oracle.rounded
        }
        more = self.bounds.hidden(profile, _same(half["s"]), _same(half["u"]) if u else None)
        return self._sum(drift, more)

    def _handed(self, name: str, handed: dict[str, Drift], d_s: Drift, d_u: Drift) -> Drift:
        """What a product inherits from the errors of the operand that is computed."""
        operands, number = self.bounds.oracle.operands, self.bounds.number
        if name == "d_x":
            found = _through(d_u, right=operands["w_up"].T, number=number)
            if self.problem.gated:
                found = self._sum(found, _through(d_s, right=operands["w_gate"].T, number=number))
            return found
        if name == "d_b_down":
            zero = np.zeros(self.gradients[name].shape)
            return Drift(det=zero, stat=zero, rms=zero)
        drift = handed[name]
        turned = Drift(det=drift.det.T, stat=drift.stat.T, rms=drift.rms.T)
        if name.startswith("d_b_"):
            found = _through(turned, right=np.ones((self.problem.m, 1)), number=number)
            return Drift(det=found.det[:, 0], stat=found.stat[:, 0], rms=found.rms[:, 0])
        if name == "d_w_down":
            return _through(turned, right=self.left[name][1], number=number)
        found = _through(turned, right=operands["x"], number=number)
        return Drift(det=found.det.T, stat=found.stat.T, rms=found.rms.T)

    def _gemm(self, profile: Profile, name: str) -> Drift:
        """The error of one product, its operands taken as exact."""
        problem = self.problem
        total, root, size = self.sizes[name]
        if name.startswith("d_b_"):
            total, root, size = total[0], root[0], size[0]
        lengths = {"dh": problem.out_features, "d_x": problem.hidden_features * (1 + problem.gated)}
        ieee = name.startswith("d_b_") and problem.dtype == "float32"
        length = lengths.get(name, problem.m)
        chain = self.bounds.chain(profile, length, ieee=ieee)
        lost = chain.bias * size
        drift = Drift(det=chain.det * total, stat=chain.stat * root + lost, rms=chain.rms * root + lost)
        if profile.fused:
            return drift
        if problem.precision == "tf32" and not ieee:
            drift = drift.plus(2.0**-9 * total, LAMBDA * 2.0**-10 * root, 2.0**-10 * root)
        elif problem.dtype != "float32" and (problem.m == 1 or name.startswith("d_b_")):
            # XLA takes a product of one row, and a sum over rows, in the dtype itself: a rounding an addition.
            u, steps = self.bounds.dtype.unit_roundoff, max(1, length)
            walk = np.sqrt(steps)
            drift = drift.plus(steps * u * total, LAMBDA * walk * u * root, walk * u * root)
        if name == "d_x" and problem.gated:
            drift = drift.plus(
                3.0 * self.bounds.dtype.unit_roundoff * total,
                3.0 * self.bounds.dtype.unit_roundoff * (size + LAMBDA * root),
                self.bounds.dtype.unit_roundoff * (size + root),
            )
        return drift.plus(self.bounds.dtype.unit_roundoff * size + self.bounds.dtype.smallest)

    def _flipped(self, drift: Drift, name: str, value: np.ndarray | None = None) -> Drift:
        """``drift`` after a rounding to the dtype, which may tip."""
        value = self.bounds.oracle.rounded[name] if value is None else value
        step = ulp(np.abs(np.nan_to_num(value)) + np.nan_to_num(drift.stat), self.bounds.format)
        chance = np.minimum(1.0, np.nan_to_num(drift.rms) / step)
        moved = np.where(drift.det > 0, step, 0.0)
        return Drift(det=drift.det + moved, stat=drift.stat + moved, rms=np.sqrt(drift.rms**2 + chance * step**2))

    def _round(self, drift: Drift, result: np.ndarray) -> Allowance:
        step = ulp(np.abs(np.nan_to_num(result)) + np.nan_to_num(drift.stat), self.problem.dtype)
        return Allowance(
            det=drift.det + step,
            stat=np.minimum(drift.stat, drift.det) + step,
            own=drift.rms**2,
            flips=Flips(chance=np.minimum(1.0, drift.rms / step), step=step),
        )

    @staticmethod
    def _carried(error: np.ndarray, at: np.ndarray, slope: float | None) -> np.ndarray:
        return ((2.0 * np.abs(at) + error) if slope is None else slope) * error

    @staticmethod
    def _sum(a: Drift, b: Drift) -> Drift:
        return Drift(det=a.det + b.det, stat=a.stat + b.stat, rms=np.sqrt(a.rms**2 + b.rms**2))


def _sizes(pairs: list[tuple[np.ndarray, np.ndarray]], number: type) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A = sum |a b|, R = sqrt(sum (a b)^2) and |sum a b| of a product's elements."""
    total, square, value = 0.0, 0.0, 0.0
    with np.errstate(all="ignore"):
        for a, b in pairs:
            a, b = (np.nan_to_num(side.astype(number)) for side in (a, b))
            total = total + np.abs(a) @ np.abs(b)
            square = square + a**2 @ b**2
            value = value + a @ b
    return (
        np.asarray(total, np.float64),
        np.sqrt(np.asarray(square, np.float64)),
        np.abs(np.asarray(value, np.float64)),
    )


def _through(drift: Drift, *, right: np.ndarray, number: type) -> Drift:
    """An error of a product's left operand, as the product's."""
    det, stat, rms = (np.nan_to_num(part, posinf=0.0).astype(number) for part in (drift.det, drift.stat, drift.rms))
    right = np.nan_to_num(right.astype(number))
    size = np.abs(right)
    found = np.sqrt(np.asarray(rms**2 @ right**2, np.float64))
    sure = np.asarray(det @ size, np.float64)
    # A rare jump is not ruled by the mean square: the largest one comes on top.
    largest = stat.max(axis=1, initial=0.0, keepdims=True).astype(np.float64) * size.max(axis=0, initial=0.0)
    return Drift(det=sure, stat=np.minimum(LAMBDA * found + LAMBDA**2 / 3 * largest, sure), rms=found)


def _same(error: np.ndarray) -> Drift:
    return Drift(det=error, stat=error, rms=error)


def _kept(bound: np.ndarray, values: np.ndarray) -> np.ndarray:
    """No error is allowed where the oracle is not finite."""
    return np.where(np.isfinite(values) & np.isfinite(bound), bound, 0.0)

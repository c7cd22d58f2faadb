"""Where a fault is: the stages of two fused runners apart, each fed what the other one has computed.

A stage's input is put in through the public function, so that the very kernel runs: ``h`` as the x of an MLP whose
first GEMM is the identity, ``s`` and ``u`` as sums of pieces that the operands' type can hold, which one chain adds up
exactly. Rows of zeros lie below the identity, so that a first GEMM that loses its last terms hands on the same.

    first GEMM      s and u of both runners, from the same x
    activation      h of both, from the same s and u
    rounding of h   a runner's y against that of its own second GEMM, fed the h it says it had
    second GEMM     y of both, from the same h
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from . import suspect
from .bounds import Allowance, Bounds, Profile, between
from .cases import Case
from .compare import compare
from .contract.plan import HOPPER_DEPTH, Backend, Plan
from .contract.problem import Problem
from .contract.tolerance import VERDICTS, Arithmetic
from .judge import FUSED
from .oracle import Stages, evaluate
from .rounding import round_tf32, round_to, ulp
from .session import Session

SCHEMA = "parity.inject/1"
STAGES = ("first GEMM", "activation", "rounding of h", "second GEMM")
FIRST, ACTIVATION, ROUNDING, SECOND = STAGES
# So many columns of h are asked of the activation: it is the same function in all.
COLUMNS = 256
MARGIN = 32
# Float16 has few exponents: the second and third piece are held larger, and weighed down again.
PIECES = {"float32": (0,), "tf32": (0, 0, 0), "float16": (0, 11, 22), "bfloat16": (0, 0, 0)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One stage of ``a`` against ``b``. ``red``: they differ more than the stage may. ``culprits``: whose result is
    beyond the bounds of the float64 oracle for the same input; none where both are within, as with another order of
    summation."""

    stage: str
    what: str
    verdict: str
    bit_equal: float
    red: bool
    culprits: tuple[str, ...] = ()
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.stage} ({self.what}): {self.verdict}, {100 * self.bit_equal:.4g} % of bits equal"
        return text + (f"; {self.hint}" if self.hint else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where ``a`` and ``b`` part."""

    a: str
    b: str
    findings: tuple[Finding, ...]

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages at fault, in the order of the computation."""
        red = {finding.stage for finding in self.findings if finding.red}
        return tuple(stage for stage in STAGES if stage in red)

    def __str__(self) -> str:
        if not self.stages:
            return f"no stage of {self.a} and {self.b} is at fault: each gives what it should for the same input"
        parts = []
        for stage in self.stages:
            of = [finding for finding in self.findings if finding.stage == stage and finding.red]
            names = sorted({name for finding in of for name in finding.culprits}) or ["either"]
            hints = [finding.hint for finding in of if finding.hint]
            parts.append(f"{stage} of {' and '.join(names)}" + (f" ({hints[0]})" if hints else ""))
        return "placed in " + "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        findings = [asdict(finding) for finding in self.findings]
        return {"a": self.a, "b": self.b, "stages": self.stages, "text": str(self), "findings": findings}


def place(
    case: Case,
    arrays: Mapping[str, np.ndarray],
    session: Session,
    arithmetic: Arithmetic,
    *,
    equal: bool,
    pair: tuple[str, str] = FUSED,
) -> Placement:
    """Asks both runners stage by stage. ``equal``: their bits should be the same, else within the case's bounds.

    Raises RuntimeError if a runner gives no result.
    """
    return _Injection(case, arrays, session, arithmetic, equal, pair).place()


class _Injection:
    def __init__(
        self,
        case: Case,
        arrays: Mapping[str, np.ndarray],
        session: Session,
        arithmetic: Arithmetic,
        equal: bool,
        pair: tuple[str, str],
    ) -> None:
        self.case, self.session, self.equal, self.pair = case, session, equal, pair
        self.problem, self.plan = case.problem, case.plan
        self.arrays = {name: array for name, array in arrays.items() if name != "dy"}
        self.oracle = evaluate(self.problem, self.arrays)
        self.bounds = Bounds(self.oracle, self.plan)
        self.profile = Profile(fused=True, arithmetic=arithmetic)
        self.margin = HOPPER_DEPTH if self.plan.backend is Backend.HOPPER else MARGIN

    def place(self) -> Placement:
        a, b = self.pair
        own = self._run(self.problem, self.plan, self.arrays)
        findings = self._first(own)
        findings += self._activation(own)
        again = {of: self._second_gemm(own[of]["h"]) for of in self.pair}
        findings += [self._rounding(name, own[name], again[name][name]) for name in self.pair]
        findings += [self._second(of, own[of]["h"], again[of]) for of in self.pair]
        return Placement(a=a, b=b, findings=tuple(findings))

    def _first(self, own: dict[str, Stages]) -> list[Finding]:
        allowed = self.bounds.of(self.profile)
        found = []
        for stage in ("s", "u") if self.problem.gated else ("s",):
            values = {name: own[name][stage] for name in self.pair}
            finding = self._finding(FIRST, stage, values, self.oracle.rounded[stage], allowed[stage])
            layer = "gate" if self.problem.gated and stage == "s" else "up"
            hint = self._linear_hint(finding, values, layer, self.oracle.operands["x"], allowed[stage])
            found.append(replace(finding, hint=hint))
        return found

    def _activation(self, own: dict[str, Stages]) -> list[Finding]:
        found = []
        for of in self.pair:
            taps = own[of]
            columns = self._columns(own)
            s, u = taps["s"][:, columns], taps["u"][:, columns] if self.problem.gated else None
            results = self._activate(s, u)
            arrived = np.ones(s.shape, bool)
            for name in self.pair:
                arrived &= _same(results[name]["s"], s)
                arrived &= True if u is None else _same(results[name]["u"], u)
            after, allowances = self._after({name: taps[name] for name in ("s", "u", "h") if name in taps})
            exact, allowed = after["h"][:, columns], _columns_of(allowances["h"], columns)
            values = {name: np.where(arrived, results[name]["h"], 0).astype(s.dtype) for name in self.pair}
            typed = {name: value.astype(results[name]["h"].dtype) for name, value in values.items()}
            finding = self._finding(ACTIVATION, f"h from {of}'s s", typed, np.where(arrived, exact, 0), allowed)
            if arrived.size and arrived.mean() < 0.5:
                hint = "untested: s did not arrive as it was put in"
                finding = replace(finding, red=False, culprits=(), hint=hint)
            elif finding.culprits:
                name = finding.culprits[0]
                hint = suspect.activation(self.problem, s.astype(float), u, results[name]["h"].astype(float))
                finding = replace(finding, hint=hint)
            found.append(finding)
        return found

    def _rounding(self, name: str, own: Stages, again: Stages) -> Finding:
        """Whether the y of ``name`` is that of the h it shows."""
        h, dtype = own["h"], self.problem.dtype
        if h.dtype.name != dtype:
            hint = f"h is {h.dtype.name}, should be {dtype}"
            return Finding(
                stage=ROUNDING, what=name, verdict="FAIL", bit_equal=0.0, red=True, culprits=(name,), hint=hint
            )
        same = _same(own["y"], again["y"])
        delivered = bool(_same(again["h"], self._fed(h)).all())
        share = float(same.mean()) if same.size else 1.0
        red = share < 1.0 and delivered
        hint = "" if delivered else "untested: h did not arrive as it was put in"
        if red:
            hint = f"{name}'s y is not that of the h it shows" + self._unrounded(own)
        return Finding(
            stage=ROUNDING,
            what=name,
            verdict="BIT_EQUAL" if share == 1.0 else "FAIL",
            bit_equal=share,
            red=red,
            culprits=(name,) if red else (),
            hint=hint,
        )

    def _second(self, of: str, h: np.ndarray, results: dict[str, Stages]) -> Finding:
        taps = {name: tap for name, tap in self.oracle.rounded.items() if name in ("s", "u")} | {"h": h}
        exact, allowances = self._after(taps)
        allowed = allowances["y"]
        values = {name: results[name]["y"] for name in self.pair}
        finding = self._finding(SECOND, f"y from {of}'s h", values, exact["y"], allowed)
        lost = [name for name in self.pair if not _same(results[name]["h"], self._fed(h)).all()]
        if lost:
            hint = f"untested: h did not arrive in {' and '.join(lost)} as it was put in"
            return replace(finding, red=False, culprits=(), hint=hint)
        left = self._fed(h).astype(float)
        return replace(finding, hint=self._linear_hint(finding, values, "down", left, allowed))

    def _after(self, taps: Mapping[str, np.ndarray]) -> tuple[Stages, dict[str, Allowance]]:
        """What each stage should give after these taps, and the bounds of each step by itself there."""
        after = self.oracle.after(taps)
        given = {name: np.asarray(tap, np.float64) for name, tap in taps.items()}
        bounds = Bounds(replace(self.oracle, rounded=after | given), self.plan)
        return after, bounds.of(self.profile, after=after)

    def _fed(self, h: np.ndarray) -> np.ndarray:
        """``h`` as the identity hands it on: the second GEMM would round it to tf32 too."""
        return round_tf32(h) if self.problem.precision == "tf32" else h

    def _finding(
        self, stage: str, what: str, values: dict[str, np.ndarray], exact: np.ndarray, allowed: Allowance
    ) -> Finding:
        a, b = self.pair
        comparison = compare(values[a], values[b], between(allowed, allowed))
        zero = np.zeros(np.shape(allowed.det))
        bound = between(allowed, Allowance(det=zero, stat=zero, own=zero))
        worse = [
            name for name in self.pair if not _passes(compare(values[name], exact, bound).verdict, self.case.demands)
        ]
        demands = "BIT_EQUAL" if self.equal else self.case.demands
        red = not _passes(comparison.verdict, demands) or bool(worse)
        return Finding(
            stage=stage,
            what=what,
            verdict=comparison.verdict,
            bit_equal=comparison.bit_equal,
            red=red,
            culprits=tuple(worse),
        )

    def _linear_hint(
        self, finding: Finding, values: dict[str, np.ndarray], layer: str, left: np.ndarray, allowed: Allowance
    ) -> str:
        if not finding.red:
            return ""
        if not finding.culprits:
            return "both are within their bounds: another order of summation, see `parity order`"
        found = values[finding.culprits[0]]
        right, bias = self.oracle.operands[f"w_{layer}"], self.oracle.operands.get(f"b_{layer}")
        return suspect.linear(found.astype(float), left, right, bias, allowed.det + ulp(found, found.dtype.name))

    def _unrounded(self, own: Stages) -> str:
        """What is to be added where the y of h before its rounding fits better."""
        wide = suspect.wide_hidden(self.problem, own["s"].astype(float), own.get("u"))
        bias = self.oracle.operands.get("b_down", 0.0)
        y, down = own["y"].astype(float), self.oracle.operands["w_down"]
        off = [np.abs(y - (h @ down + bias)).sum() for h in (wide, own["h"].astype(float))]
        return ", but that of h before it was rounded" if off[0] < off[1] else ""

    def _columns(self, own: dict[str, Stages]) -> np.ndarray:
        """Those of h that are asked of the activation: where the runners are furthest apart, and as many as fit."""
        h = self.problem.hidden_features
        apart = np.abs(own[self.pair[0]]["h"].astype(float) - own[self.pair[1]]["h"].astype(float))
        worst = np.argsort(-np.nan_to_num(apart.max(axis=0, initial=0.0)), kind="stable")
        return np.sort(worst[: min(h, COLUMNS)])

    def _activate(self, s: np.ndarray, u: np.ndarray | None) -> dict[str, Stages]:
        """Every runner's stages for this s and u."""
        problem, h = self.problem, s.shape[1]
        form = "tf32" if problem.precision == "tf32" else problem.dtype
        given = [s] if u is None else [s, u]
        columns, blocks = [], []
        for index, values in enumerate(given):
            for piece, shift in zip(_pieces(values, form), PIECES[form], strict=True):
                columns.append(piece)
                blocks.append((index, 2.0**-shift))
        size = len(blocks) * h
        k = -(-size // self.margin) * self.margin + self.margin
        x = np.zeros((len(s), k))
        weights = [np.zeros((k, h)) for _ in given]
        for i, (piece, (index, weight)) in enumerate(zip(columns, blocks, strict=True)):
            x[:, i * h : (i + 1) * h] = piece
            weights[index][i * h : (i + 1) * h] = weight * np.eye(h)
        asked = replace(
            problem,
            in_features=k,
            hidden_features=h,
            bias_up=False,
            bias_gate=False,
            bias_down=False,
        )
        named = {"x": x, "w_up": weights[-1], "w_down": np.zeros((h, problem.out_features))}
        named |= {"w_gate": weights[0]} if problem.gated else {}
        return self._run(asked, self._one_chain(), {n: round_to(v, problem.dtype) for n, v in named.items()})

    def _second_gemm(self, h: np.ndarray) -> dict[str, Stages]:
        """Every runner's stages with this h before the second GEMM."""
        problem, size = self.problem, self.problem.hidden_features
        k = -(-size // self.margin) * self.margin + self.margin
        x = np.zeros((len(h), k), h.dtype)
        x[:, :size] = h
        asked = replace(problem, in_features=k, activation="identity", gated=False, bias_up=False, bias_gate=False)
        identity = round_to(np.eye(k, size, dtype=np.float32), problem.dtype)
        named = {"x": round_to(x, problem.dtype), "w_up": identity}
        named |= {name: self.arrays[name] for name in ("w_down", "b_down") if name in self.arrays}
        return self._run(asked, self._one_chain(), named)

    def _one_chain(self) -> Plan:
        """The case's plan, its first GEMM in one chain: what is put in passes whole."""
        return replace(self.plan, split_k=(1, self.plan.splits[1]))

    def _run(self, problem: Problem, plan: Plan, arrays: Mapping[str, np.ndarray]) -> dict[str, Stages]:
        answer = self.session.ask(problem, arrays, plan, self.pair)
        missing = [name for name in self.pair if name not in answer.stages]
        if missing:
            why = "; ".join(answer.errors.values())
            raise RuntimeError(f"{' and '.join(missing)} gave no result: {why}")
        return answer.stages


def _pieces(values: np.ndarray, form: str) -> list[np.ndarray]:
    """Values whose weighted sum is ``values``, each exact in ``form``; float64."""
    rest, found = values.astype(np.float64), []
    for shift in PIECES[form]:
        scaled = (rest * 2.0**shift).astype(np.float32)
        piece = (round_tf32(scaled) if form == "tf32" else round_to(scaled, form)).astype(np.float64)
        found.append(piece)
        rest = rest - piece * 2.0**-shift
    return found


def _columns_of(allowed: Allowance, columns: np.ndarray) -> Allowance:
    flips = allowed.flips
    return replace(
        allowed,
        det=allowed.det[:, columns],
        stat=allowed.stat[:, columns],
        own=allowed.own[:, columns],
        inherited=None if allowed.inherited is None else allowed.inherited[:, columns],
        flips=flips and replace(flips, chance=flips.chance[:, columns], step=flips.step[:, columns]),
    )


def _passes(verdict: str, demands: str) -> bool:
    return VERDICTS.index(verdict) <= VERDICTS.index(demands)


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two results are the same number; -0 is 0: a sum of nothing but products with zeros has lost its sign."""
    return (a.astype(np.float64) == b.astype(np.float64)) | (np.isnan(a) & np.isnan(b))

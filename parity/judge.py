"""All of one case's results against each other and against the oracle: pairs, verdicts, and what is red."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from .backward import after as after_taps
from .backward import evaluate_gradients, integers_are_exact
from .bounds import Allowance, Bounds, Profile, StageBound, between
from .cases import Case
from .compare import Comparison, compare
from .contract.tolerance import VERDICTS, Arithmetic
from .flips import Flips, flips
from .gradient_bounds import GradientBounds
from .oracle import Oracle, Stages, evaluate, evaluate_integers

FUSED = ("jaxfused", "torchfused")
RUNNERS = (*FUSED, "xla", "eager")
# The oracle with rounded h; the one that rounds nothing; the one applied to a runner's own previous stage.
ABSENT = np.empty((0, 0, 0))
ORACLE, PURE, STEP = "oracle", "oracle_pure", "oracle_step"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One stage of two results. ``red``: the verdict is below what the case demands. ``flips``: of a 16-bit stage that
    differs, where what differs before its rounding is known."""

    a: str
    b: str
    stage: str
    comparison: Comparison
    red: bool
    flips: Flips | None = None

    def to_dict(self) -> dict[str, Any]:
        numbers = {
            name: float(f"{value:.6g}") if isinstance(value, float) else value
            for name, value in asdict(self.comparison).items()
        }
        told = {"flips": asdict(self.flips)} if self.flips else {}
        return {"a": self.a, "b": self.b, "stage": self.stage, **numbers, "red": self.red, **told}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What a case's results are held against. ``dy`` and ``gradients`` (the oracle's own) where there is a backward;
    ``demands``: the worst verdict of a gradient that passes."""

    oracle: Oracle
    dy: np.ndarray | None = None
    gradients: Stages = field(default_factory=dict)
    demands: str = "WITHIN_STAT"


def prepare(case: Case, arrays: dict[str, np.ndarray]) -> Reference:
    """The case's reference; "dy" among the arrays asks for the gradients'. Raises ValueError if an integer case is not
    exact, so that equality could not be demanded."""
    dy = arrays.get("dy")
    oracle = evaluate(case.problem, {name: array for name, array in arrays.items() if name != "dy"})
    if case.stimulus == "integer":
        forward = {name: array for name, array in arrays.items() if name != "dy"}
        for stage, whole in evaluate_integers(case.problem, forward).items():
            if (oracle.rounded[stage] != whole).any():
                raise ValueError(f"{stage} of {case.name} in float64 is not what int64 gives")
    if dy is None:
        return Reference(oracle=oracle)
    gradients = evaluate_gradients(oracle, dy, case.save)
    exact = case.stimulus == "integer" and integers_are_exact(oracle, dy, gradients)
    return Reference(oracle=oracle, dy=dy, gradients=gradients, demands="BIT_EQUAL" if exact else "WITHIN_STAT")


def judge(
    case: Case, reference: Reference, results: dict[str, Stages], arithmetic: Arithmetic, *, twins_equal: bool = False
) -> list[Pair]:
    """Every pair of ``results`` (runner -> stages), and each with the oracles it is held against.

    ``twins_equal`` demands BIT_EQUAL of the two fused runners whatever the case demands of the others.
    """
    oracle = reference.oracle
    bounds = Bounds(oracle, case.plan)
    profiles = {
        True: Profile(fused=True, arithmetic=arithmetic),
        False: Profile(fused=False, arithmetic=arithmetic),
    }
    of = {fused: bounds.of(profile) for fused, profile in profiles.items()}
    exact = bounds.exact()
    allowed = {runner: of[runner in FUSED] for runner in results} | {ORACLE: exact, PURE: bounds.pure()}
    values = results | {ORACLE: oracle.rounded, PURE: oracle.pure}
    names = [runner for runner in RUNNERS if runner in results]
    couples = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    couples += [(runner, reference) for reference in (ORACLE, PURE) for runner in names]
    pairs = []
    for a, b in couples:
        distance = {stage: between(of_a, allowed[b][stage]) for stage, of_a in allowed[a].items()}
        demands = "BIT_EQUAL" if twins_equal and (a, b) == FUSED else case.demands
        rounding = tuple(profiles[True] for name in (a, b) if name in FUSED)
        known = all(name in (*FUSED, ORACLE) for name in (a, b))
        explain = partial(flips, bounds, rounding, values[a], values[b]) if known else None
        pairs += _stages(demands, a, b, values[a], values[b], distance, explain)
    for runner in names:
        if runner in FUSED:
            after = oracle.after(results[runner])
            step = {s: between(own, exact[s]) for s, own in bounds.of(profiles[True], after=after).items()}
            pairs += _stages(case.demands, runner, STEP, results[runner], after, step)
    if reference.dy is not None:
        pairs += _gradients(reference, bounds, profiles, results, twins_equal=twins_equal)
    return pairs


def _gradients(
    reference: Reference,
    bounds: Bounds,
    profiles: dict[bool, Profile],
    results: dict[str, Stages],
    *,
    twins_equal: bool,
) -> list[Pair]:
    """The gradients: every pair of runners, each with the oracle, and a fused runner's steps each by itself."""
    assert reference.dy is not None
    of = GradientBounds(bounds, reference.dy, reference.gradients)
    whole = {fused: of.whole(profile) for fused, profile in profiles.items()}
    values = results | {ORACLE: reference.gradients}
    names = [runner for runner in RUNNERS if runner in results]
    pairs = []
    for i, a in enumerate(names):
        for b in (*names[i + 1 :], ORACLE):
            distance = whole[a in FUSED] if b == ORACLE else _apart(whole[a in FUSED], whole[b in FUSED])
            demands = "BIT_EQUAL" if twins_equal and (a, b) == FUSED else reference.demands
            pairs += _stages(demands, a, b, values[a], values[b], distance)
    for runner in names:
        if runner in FUSED:
            found = results[runner]
            taps = {name: found[f"saved_{name}"] for name in ("s", "u", "h") if f"saved_{name}" in found}
            taps |= {name: found[name] for name in ("d_s", "d_u") if name in found}
            after = after_taps(reference.oracle, reference.dy, taps)
            steps = of.steps(profiles[True], after)
            pairs += _stages(reference.demands, runner, STEP, found, after, {s: alone(a) for s, a in steps.items()})
    return pairs


def _apart(a: dict[str, StageBound], b: dict[str, StageBound]) -> dict[str, StageBound]:
    return {
        stage: StageBound(det=bound.det + b[stage].det, stat=bound.stat + b[stage].stat)
        for stage, bound in a.items()
        if stage in b
    }


def alone(allowed: Allowance) -> StageBound:
    """The bound of the distance from what is exact."""
    zero = np.zeros(allowed.det.shape)
    return between(allowed, Allowance(det=zero, stat=zero, own=zero))


def _stages(
    demands: str,
    a: str,
    b: str,
    of_a: Stages,
    of_b: Stages,
    bounds: dict[str, StageBound],
    explain: Callable[[str], Flips | None] | None = None,
) -> list[Pair]:
    pairs = []
    for stage, bound in bounds.items():
        # A stage that a runner does not have is of no shape: FAIL.
        comparison = compare(of_a.get(stage, ABSENT), of_b.get(stage, ABSENT), bound)
        found = explain(stage) if explain and comparison.verdict == "WITHIN_STAT" else None
        if found and found.explained:
            comparison = replace(comparison, verdict="FLIP_EXPLAINED")
        red = VERDICTS.index(comparison.verdict) > VERDICTS.index(demands)
        pairs.append(Pair(a=a, b=b, stage=stage, comparison=comparison, red=red, flips=found))
    return pairs

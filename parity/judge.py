"""All of one case's results against each other and against the oracle: pairs, verdicts, and what is red."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .bounds import Bounds, Profile, StageBound, between
from .cases import Case
from .compare import Comparison, compare
from .contract.tolerance import VERDICTS, Arithmetic
from .oracle import Oracle, Stages, evaluate, evaluate_integers

FUSED = ("jaxfused", "torchfused")
RUNNERS = (*FUSED, "xla", "eager")
# The oracle with rounded h; the one that rounds nothing; the one applied to a runner's own previous stage.
ORACLE, PURE, STEP = "oracle", "oracle_pure", "oracle_step"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One stage of two results. ``red``: the verdict is below what the case demands."""

    a: str
    b: str
    stage: str
    comparison: Comparison
    red: bool

    def to_dict(self) -> dict[str, Any]:
        numbers = {
            name: float(f"{value:.6g}") if isinstance(value, float) else value
            for name, value in asdict(self.comparison).items()
        }
        return {"a": self.a, "b": self.b, "stage": self.stage, **numbers, "red": self.red}


def prepare(case: Case, arrays: dict[str, np.ndarray]) -> Oracle:
    """The case's oracle. Raises ValueError if an integer case is not exact, so that equality could not be demanded."""
    oracle = evaluate(case.problem, arrays)
    if case.stimulus == "integer":
        for stage, whole in evaluate_integers(case.problem, arrays).items():
            if (oracle.rounded[stage] != whole).any():
                raise ValueError(f"{stage} of {case.name} in float64 is not what int64 gives")
    return oracle


def judge(
    case: Case, oracle: Oracle, results: dict[str, Stages], arithmetic: Arithmetic, *, twins_equal: bool = False
) -> list[Pair]:
    """Every pair of ``results`` (runner -> stages), and each with the oracles it is held against.

    ``twins_equal`` demands BIT_EQUAL of the two fused runners whatever the case demands of the others.
    """
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
        pairs += _stages(demands, a, b, values[a], values[b], distance)
    for runner in names:
        if runner in FUSED:
            after = oracle.after(results[runner])
            step = {s: between(own, exact[s]) for s, own in bounds.of(profiles[True], after=after).items()}
            pairs += _stages(case.demands, runner, STEP, results[runner], after, step)
    return pairs


def _stages(demands: str, a: str, b: str, of_a: Stages, of_b: Stages, bounds: dict[str, StageBound]) -> list[Pair]:
    pairs = []
    for stage, bound in bounds.items():
        comparison = compare(of_a[stage], of_b[stage], bound)
        red = VERDICTS.index(comparison.verdict) > VERDICTS.index(demands)
        pairs.append(Pair(a=a, b=b, stage=stage, comparison=comparison, red=red))
    return pairs

"""``parity minimise``: the smallest problem that still fails as a case does."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import stimulus
from .cases import TILED, Case
from .contract.problem import Problem
from .judge import judge, prepare
from .run import Where
from .session import Session

SIZES = ("m", "in_features", "hidden_features", "out_features")
FORWARD = ("s", "u", "h", "y")

# What is red: (a, b, stage), or (runner, "error", what it says).
Red = frozenset[tuple[str, str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Minimum:
    """The smallest case found, what is red in it, of its backward or else of its forward, and after how many tries."""

    case: Case
    red: Red
    backward: bool
    tries: int
    complete: bool

    @property
    def failing(self) -> str:
        """What is red, in words."""
        return "; ".join(f"{a} {b} {what}" if b == "error" else f"{a} ~ {b} {what}" for a, b, what in sorted(self.red))

    def __str__(self) -> str:
        p = self.case.problem
        biases = [name for name in ("bias_up", "bias_gate", "bias_down") if getattr(p, name)]
        parts = [p.activation, "gated" if p.gated else "plain", *biases, p.dtype]
        parts += [p.precision] if p.precision != "ieee" else []
        parts.append("x".join(str(getattr(p, size)) for size in SIZES))
        return f"{' '.join(parts)}, {self.case.plan.strategy}/{self.case.plan.backend} split_k {self.case.plan.split_k}"


def arrays_of(case: Case, *, backward: bool) -> dict[str, np.ndarray]:
    """The case's stimulus; with the upstream gradient where the backward is asked."""
    arrays = stimulus.generate(case.problem, case.stimulus, case.seed)
    return arrays | ({"dy": stimulus.upstream(case.problem, case.stimulus, case.seed)} if backward else {})


def minimise(
    case: Case, where: Where, session: Session, *, tries: int, say: Callable[[str], None] = lambda text: None
) -> Minimum | None:
    """Shrinks ``case`` while the same runners stay red: its form first, then its sizes. None if it does not fail.

    A smaller case keeps the name, and so the seed.
    """
    red = _red(case, where, session, backward=False)
    backward = not red and case.gradients
    if backward:
        red = _red(case, where, session, backward=True)
    if not red:
        return None
    wanted, count, smaller = {key[:2] for key in red}, 0, True
    seen = {case}
    while smaller and count < tries:
        smaller = False
        for candidate in _smaller(case):
            if candidate in seen or candidate.skip_reason(where.device):
                continue
            seen.add(candidate)
            count += 1
            found = _red(candidate, where, session, backward=backward)
            if wanted & {key[:2] for key in found}:
                case, red, smaller = candidate, found, True
                say(str(Minimum(case=case, red=red, backward=backward, tries=count, complete=False)))
                break
            if count >= tries:
                break
    return Minimum(case=case, red=red, backward=backward, tries=count, complete=not smaller)


def _red(case: Case, where: Where, session: Session, *, backward: bool) -> Red:
    try:
        arrays = arrays_of(case, backward=backward)
        reference = prepare(case, arrays)
    except ValueError:
        return frozenset()  # an integer case that is not exact says nothing
    answer = session.ask(case.problem, arrays, case.plan, save=case.save)
    if answer.errors:
        return frozenset((runner, "error", why) for runner, why in answer.errors.items())
    pairs = judge(case, reference, answer.stages, where.arithmetic, twins_equal=where.twins_equal)
    kept = [pair for pair in pairs if pair.red and (pair.stage in FORWARD) is not backward]
    return frozenset((pair.a, pair.b, pair.stage) for pair in kept)


def _smaller(case: Case) -> Iterator[Case]:
    """Every next step, the boldest first."""
    p, plan = case.problem, case.plan
    if plan != TILED:
        yield replace(case, plan=TILED)
    if plan.up or plan.down:
        yield replace(case, plan=replace(plan, up=None, down=None))
    if plan.split_k != (1, 1):
        yield from (
            replace(case, plan=replace(plan, split_k=split)) for split in ((1, plan.splits[1]), (plan.splits[0], 1))
        )
    changes: list[dict[str, Any]] = [{"gated": False, "bias_gate": False}] if p.gated else []
    changes += [{name: False} for name in ("bias_up", "bias_gate", "bias_down") if getattr(p, name)]
    changes += [{"activation": name} for name in _simpler(p)]
    changes += [{"precision": "ieee"}] if p.precision != "ieee" else []
    changes += [{"dtype": "float32"}] if p.dtype != "float32" else []
    for size in SIZES:
        now = getattr(p, size)
        changes += [{size: to} for to in dict.fromkeys((1, now // 2, now - now // 4, now - 1)) if 1 <= to < now]
    yield from (replace(case, problem=replace(p, **change)) for change in changes)


def _simpler(p: Problem) -> tuple[str, ...]:
    return {"identity": (), "relu": ("identity",)}.get(p.activation, ("identity", "relu"))

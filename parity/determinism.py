"""``parity determinism``: the same bits again, in a fresh process, alone, in a larger batch, in another row; and which
plans give the same bits.

What the contract promises of every fused plan: a run repeated gives the same bits, and a row has the bits it has in any
batch and at any place in it; plans of one ``split_k`` give the same bits, in either twin. An interpreter keeps the
first of these and the place alone: it leaves each tile's product to the framework's CPU library, whose order of
summation hangs on the tile's size. There, and of the frameworks' own MLPs everywhere, the rest is shown and not
demanded.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from . import stimulus
from .cases import OWN_PLANS, PLANS, TILED, Case, build
from .contract.choice import limitation
from .contract.plan import Plan, Strategy
from .contract.problem import Problem
from .contract.vendor import Order
from .judge import FUSED
from .oracle import Stages
from .run import Where
from .session import Answer, Session

SCHEMA = "parity.determinism/1"
OWN = ("xla", "eager")
# A framework's own plan, in the tables.
UNFUSED = "own"
# Beside those of the cases: a second plan for each split, so that no promise of shared bits is about one plan alone.
PARTNERS = {
    "decode2": Plan(strategy=Strategy.DECODE, split_k=2),
    "tiled4-2": Plan(split_k=(4, 2)),
}
KNOWN = PLANS | PARTNERS | OWN_PLANS
# What an interpreter promises as well.
ANYWHERE = ("repeat", "process", "position")
PART = 17  # rows of the smaller batch: one tile and one row more
TIMES = 4  # how much taller the larger batch is, and one row


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One question to one runner under one plan. ``promised``: a "no" is red."""

    case: str
    plan: str
    runner: str
    check: str
    passed: bool
    promised: bool
    detail: str = ""

    @property
    def red(self) -> bool:
        return self.promised and not self.passed


@dataclass(frozen=True, kw_only=True, slots=True)
class Class:
    """All that gave one stage of a case the same bits: "runner plan"."""

    case: str
    stage: str
    sha256: str
    members: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Battery:
    """Everything that was asked and found."""

    runs: int
    processes: int
    checks: tuple[Check, ...]
    classes: tuple[Class, ...]

    @property
    def passed(self) -> bool:
        return not any(check.red for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        return {
            "runs": self.runs,
            "processes": self.processes,
            "passed": self.passed,
            "checks": [asdict(check) | {"red": check.red} for check in self.checks],
            "classes": [asdict(found) for found in self.classes],
        }


def cases(device: str) -> list[Case]:
    """The problems that are asked about, on "gpu" or "cpu"."""
    if device == "gpu":
        return [
            build("gelu_tanh", (64, 2048, 4096, 2048), "bf16", biases="ud"),
            build("silu", (64, 2048, 4096, 2048), "bf16", gated=True),
        ]
    return [
        build("gelu_tanh", (33, 97, 130, 29), "fp16", biases="ud"),
        build("silu", (33, 97, 130, 29), gated=True),
    ]


def plans(problem: Problem, where: Where) -> dict[str, Plan]:
    """Every plan that can run ``problem`` here, by name."""
    return {name: plan for name, plan in KNOWN.items() if limitation(problem, where.device, plan) is None}


def determinism(
    asked: Iterable[Case],
    where: Where,
    *,
    runs: int,
    processes: int,
    only: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Battery:
    """``runs`` of every plan of every case, or of ``only`` those named, spread over so many ``processes``; the batches
    in the first of them."""
    checks: list[Check] = []
    classes: list[Class] = []
    with Session(where.workers, where.case_seconds) as session:
        for case in asked:
            examined = _Examination(case, where, session, only)
            for process in range(processes):
                session.restart()
                share = runs // processes + (process < runs % processes)
                for name, (plan, runners) in examined.candidates.items():
                    say(f"{case.name} {name}: process {process + 1} of {processes}")
                    examined.run(name, plan, runners, max(1, share), batches=process == 0)
            checks += examined.checks()
            classes += examined.classes()
    return Battery(runs=runs, processes=processes, checks=tuple(checks), classes=tuple(classes))


class _Examination:
    """One case: what its plans were asked so far."""

    def __init__(self, case: Case, where: Where, session: Session, only: Sequence[str]) -> None:
        self.case, self.where, self.session = case, where, session
        tall = replace(case.problem, m=TIMES * case.problem.m + 1)
        self.arrays = stimulus.generate(tall, case.stimulus, case.seed)
        self.x = self.arrays["x"]
        fused = {name: (plan, FUSED) for name, plan in plans(case.problem, where).items()}
        every: dict[str, tuple[Plan, Sequence[str]]] = {**fused, UNFUSED: (TILED, OWN)}
        self.candidates = {name: every[name] for name in every if not only or name in only}
        # (plan, runner) -> stage -> the sha256 of each run, a list a process.
        self.hashes: dict[tuple[str, str], dict[str, list[list[str]]]] = {}
        self.batched: list[Check] = []
        self.broken: dict[tuple[str, str], Check] = {}

    def run(self, name: str, plan: Plan, runners: Sequence[str], repeats: int, *, batches: bool) -> None:
        whole = self._ask(plan, self.x[: self.case.problem.m], runners, repeats)
        for runner, why in whole.errors.items():
            self.broken[name, runner] = self._check(name, runner, "runs", why)
        for runner, stages in whole.hashes.items():
            kept = self.hashes.setdefault((name, runner), {})
            for stage, found in stages.items():
                kept.setdefault(stage, []).append(found)
        if batches:
            for check, questions in self._batches(plan).items():
                self._compare(name, plan, runners, check, questions, whole)

    def checks(self) -> list[Check]:
        found = list(self.broken.values())
        for (name, runner), stages in self.hashes.items():
            again = [stage for stage, lists in stages.items() if any(len(set(each)) > 1 for each in lists)]
            most = max(len(set(each)) for lists in stages.values() for each in lists)
            found.append(self._check(name, runner, "repeat", f"{most} results: {_listed(again)}" if again else ""))
            fresh = [stage for stage, lists in stages.items() if len({each[0] for each in lists}) > 1]
            found.append(self._check(name, runner, "process", f"differs: {_listed(fresh)}" if fresh else ""))
        return found + self.batched + list(self._shared())

    def classes(self) -> list[Class]:
        members: dict[tuple[str, str], list[str]] = {}
        for (name, runner), stages in self.hashes.items():
            for stage, lists in stages.items():
                members.setdefault((stage, lists[0][0]), []).append(f"{runner} {name}")
        ordered = sorted(members.items(), key=lambda item: (_rank(item[0][0]), -len(item[1])))
        return [
            Class(case=self.case.name, stage=stage, sha256=sha256, members=tuple(names))
            for (stage, sha256), names in ordered
        ]

    def _batches(self, plan: Plan) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
        """Each check's questions: (the rows that are fed, which of the base batch's rows each is, -1 for none)."""
        m = self.case.problem.m
        base = np.arange(m)
        found = {
            "alone": [(self.x[i : i + 1], base[i : i + 1]) for i in sorted({0, m // 2, m - 1})],
            "batch": [(self.x[: min(PART, m)], base[:PART])],
            "position": [(np.roll(self.x[:m], by, axis=0), np.roll(base, by)) for by in sorted({1, max(1, m // 2)})],
        }
        if limitation(replace(self.case.problem, m=len(self.x)), self.where.device, plan) is None:
            rows = np.full(len(self.x), -1)
            rows[:m] = base
            found["batch"].append((self.x, rows))
        return found

    def _compare(
        self,
        name: str,
        plan: Plan,
        runners: Sequence[str],
        check: str,
        questions: list[tuple[np.ndarray, np.ndarray]],
        whole: Answer,
    ) -> None:
        details: dict[str, str] = {runner: "" for runner in runners if runner in whole.stages}
        for x, rows in questions:
            answer = self._ask(plan, x, runners, 1)
            for runner, detail in details.items():
                if not detail:
                    details[runner] = _differences(answer.stages.get(runner, {}), whole.stages[runner], rows)
        self.batched += [self._check(name, runner, check, detail) for runner, detail in details.items()]

    def _shared(self) -> Iterator[Check]:
        """Whether plans of one order and split have the same bits: s, u and h by the first GEMM's, y by both."""
        fused = {key: stages for key, stages in self.hashes.items() if key[1] in FUSED}
        groups: dict[tuple, list[tuple[str, str]]] = {}
        for name, runner in fused:
            plan = self.candidates[name][0]
            for key in (("hidden", plan.order, plan.splits[0]), ("y", plan.order, *plan.splits)):
                groups.setdefault(key, []).append((name, runner))
        for (what, order, *splits), members in groups.items():
            kinds = {
                tuple(
                    sorted(
                        (stage, lists[0][0]) for stage, lists in fused[key].items() if (stage == "y") == (what == "y")
                    )
                )
                for key in members
            }
            yield Check(
                case=self.case.name,
                plan=f"{'' if order is Order.FUSED else f'{order} '}split_k {', '.join(map(str, splits))}",
                runner="all",
                check=f"shared {what}",
                passed=len(kinds) == 1,
                promised=self.where.twins_equal,
                detail="" if len(kinds) == 1 else f"{len(kinds)} results of {len(members)} that should be one",
            )

    def _ask(self, plan: Plan, x: np.ndarray, runners: Sequence[str], repeats: int) -> Answer:
        problem = replace(self.case.problem, m=len(x))
        fed = self.arrays | {"x": np.ascontiguousarray(x)}
        return self.session.ask(problem, fed, plan, runners, repeats=repeats)

    def _check(self, plan: str, runner: str, check: str, detail: str) -> Check:
        # That there is a result is promised of every runner.
        promised = check == "runs" or (runner in FUSED and (check in ANYWHERE or self.where.twins_equal))
        return Check(
            case=self.case.name,
            plan=plan,
            runner=runner,
            check=check,
            passed=not detail,
            promised=promised,
            detail=detail,
        )


def _differences(part: Stages, whole: Stages, rows: np.ndarray) -> str:
    """Which stages of ``part`` have other bits in its rows than ``whole`` has; empty: none."""
    if not part:
        return "gave no result"
    kept = rows >= 0
    found = []
    for stage in sorted(whole, key=_rank):
        a, b = part[stage][kept], whole[stage][rows[kept]]
        bits = f"u{a.itemsize}"
        other = int((np.ascontiguousarray(a).view(bits) != np.ascontiguousarray(b).view(bits)).sum())
        if other:
            found.append(f"{stage} in {other} of {a.size}")
    return f"{len(rows)} rows: " + ", ".join(found) if found else ""


def _listed(stages: Iterable[str]) -> str:
    return ", ".join(sorted(stages, key=_rank))


def _rank(stage: str) -> int:
    return ("s", "u", "h", "y").index(stage)

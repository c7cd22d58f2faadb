"""Which recipe makes a runner's bits: each stage tried from the runner's own previous one, against what it gave.

Orders come from ``parity order`` where it can ask, and from the contract's with 1, 2, 4, ... chains, which are the
vendors' for large layers, too. What no recipe explains is counted, not hidden.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, product
from typing import get_args

import numpy as np

from .adder import HOPPER, Adder
from .compare import unlike
from .contract.plan import Plan
from .contract.problem import Problem
from .emulator import ascending
from .epilogue import STEPWISE, Bias, Product, Recipe, hidden
from .oracle import Stages
from .order import EXACT, GEMMS, Gemm, Probe, find
from .rounding import round_to
from .sample import LEFT, Emulation, Sample
from .session import Session
from .tree import Tree

Counts = dict[str, int]
CHAINS = (1, 2, 3, 4, 8)
# Asking for an order takes some 10 k questions, of k summands each.
ASKED = 512
# How many products of a GEMM a trial of one recipe may take, and the count of what the best ones leave; of a layer that
# has more, a sample is taken.
TRIAL, WORK = 4e6, 3e7
# Of so many recipes that do best in the trial, more is emulated.
FINALISTS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Portrait:
    """``wrong`` of the ``total`` elements of each stage in a ``sample`` have other bits than ``recipe`` gives, from the
    runner's own previous stage. ``why``: the GEMMs ("up", "down") whose order could not be found."""

    runner: str
    recipe: Recipe
    sample: Sample
    wrong: Counts
    total: Counts
    why: dict[str, str] = field(default_factory=dict)


def adders(problem: Problem, tensor: bool) -> list[Adder]:
    """What a GEMM of the problem's type may add with: its tensor core, or IEEE float32 with fma or without."""
    ieee = [Adder(), Adder(contracted=False)]
    kind = "tf32" if problem.precision == "tf32" else problem.dtype
    if kind == "tf32":
        away = [replace(adder, tf32="away") for adder in ieee]
        core = HOPPER[kind]
        # A matrix instruction of half the depth is tf32's other one.
        cores = [core, replace(core, tf32="zero"), replace(core, terms=4), replace(core, terms=4, tf32="zero")]
        return cores if tensor else [*away, *ieee]
    return [HOPPER[kind], *ieee] if tensor and kind != "float32" else ieee


def asked_orders(
    session: Session, problem: Problem, plan: Plan, runner: str, gemms: Sequence[Gemm] = GEMMS
) -> tuple[dict[str, Tree], dict[str, str]]:
    """The orders of the runner's GEMMs ("up", "down") in these sizes, and why others have none."""
    found, why = {}, {}
    sizes = {"up": (problem.in_features, problem.hidden_features)}
    sizes["down"] = problem.hidden_features, problem.out_features
    for gemm in gemms:
        k, columns = sizes[gemm]
        most = min(ASKED, EXACT[problem.dtype])
        if k > most:
            why[gemm] = f"the order of {k} summands is not asked for, that of {most} would be"
            continue
        probe = Probe(k=k, m=problem.m, dtype=problem.dtype, precision=problem.precision, plan=plan, columns=columns)
        order = find(session, probe, runner, gemm)
        if order.order:
            found[gemm] = order.order
        else:
            why[gemm] = order.why
    return found, why


def portrait_of(
    session: Session,
    problem: Problem,
    arrays: Mapping[str, np.ndarray],
    plan: Plan,
    runner: str,
    stages: Stages,
    tensor: bool,
) -> Portrait:
    """What explains ``stages``. The runner is asked for its orders only where no usual one does."""
    first = portray(problem, arrays, runner, stages, {}, tensor)
    gemms = {"up": sum(first.wrong.get(stage, 0) for stage in ("s", "u")), "down": first.wrong["y"]}
    # A worker that dies of the questions has no orders: what it gave before them stands.
    orders, why = asked_orders(session, problem, plan, runner, [gemm for gemm in GEMMS if gemms[gemm]])
    found = portray(problem, arrays, runner, stages, orders, tensor) if orders else first
    return replace(found, why=why)


def portray(
    problem: Problem,
    arrays: Mapping[str, np.ndarray],
    runner: str,
    stages: Stages,
    orders: Mapping[str, Tree],
    tensor: bool,
) -> Portrait:
    """The recipe that explains most of ``stages``; ``orders``: the first to be tried, of "up" and "down"."""
    # A tap that is wider than the dtype may still hold what was rounded to it.
    narrow = [True] if stages["s"].dtype != np.float32 else [False, True] if problem.dtype != "float32" else [False]
    up, down = (
        [*dict.fromkeys(_products(n, orders.get(gemm), adders(problem, tensor)))]
        for gemm, n in (("up", problem.in_features), ("down", problem.hidden_features))
    )
    trial, whole = (_Look(problem, arrays, stages, Sample.of(problem, products)) for products in (TRIAL, WORK))
    recipe = Recipe(up=up[0], down=down[0])
    biased = any(name.startswith("b_") and name != "b_down" for name in arrays)
    ups = (replace(recipe, up=one, round_s=r) for r in narrow for one in _biases(up, biased))
    recipe = _best(trial.up, whole.up, ups)
    apart = (False, True) if problem.gated else (False,)
    spelled = chain(product(("contract", "framework"), (False, True), apart), product(STEPWISE, (False,), apart))
    acts = (replace(recipe, spelling=s, contracted=c, round_f=f) for s, c, f in spelled)
    recipe = _best(trial.h, whole.h, acts)
    downs = (replace(recipe, down=one) for one in _biases(down, "b_down" in arrays))
    recipe = _best(trial.y, whole.y, downs)
    return Portrait(
        runner=runner,
        recipe=recipe,
        sample=whole.emulation.sample,
        wrong=whole.up(recipe) | whole.h(recipe) | whole.y(recipe),
        total={stage: int(whole.stages[stage].size) for stage in (*whole.first, "h", "y")},
    )


class _Look:
    """A sample of a runner's stages: how many elements of each a recipe does not give."""

    def __init__(
        self, problem: Problem, arrays: Mapping[str, np.ndarray], stages: Stages, sample: Sample
    ) -> None:  # fmt: skip
        self.problem, self.emulation = problem, Emulation.on(problem, arrays, sample)
        self.stages = sample.stages(stages)
        self.first = {"s": "gate", "u": "up"} if problem.gated else {"s": "up"}

    def up(self, recipe: Recipe) -> Counts:
        x = self.emulation.arrays["x"]
        return {
            stage: self._wrong(stage, self.emulation.linear(recipe, layer, x)) for stage, layer in self.first.items()
        }

    def h(self, recipe: Recipe) -> Counts:
        wide = hidden(self.problem, self.stages["s"], self.stages.get("u"), recipe)
        return {"h": self._wrong("h", round_to(wide, self.problem.dtype))}

    def y(self, recipe: Recipe) -> Counts:
        wide = self.emulation.linear(recipe, "down", self.stages[LEFT])
        return {"y": self._wrong("y", round_to(wide, self.problem.dtype))}

    def _wrong(self, stage: str, values: np.ndarray) -> int:
        return int(unlike(values, self.stages[stage]).sum())


def _products(n: int, asked: Tree | None, adders: Sequence[Adder]) -> Iterator[Product]:
    for adder in adders:
        widest = 1 if asked is None else max((len(children) for children in asked.nodes), default=1)
        if asked is not None and (widest > 2) == adder.fused:
            yield Product(order=asked, adder=adder)
    for chains, adder in product(CHAINS, adders):
        yield Product(order=ascending(n, chains=chains, terms=adder.terms), adder=adder)


def _biases(products: Sequence[Product], biased: bool) -> Iterator[Product]:
    for bias, one in product(get_args(Bias) if biased else ("after",), products):
        yield replace(one, bias=bias)


def _best(
    trial: Callable[[Recipe], Counts], whole: Callable[[Recipe], Counts], recipes: Iterable[Recipe]
) -> Recipe:  # fmt: skip
    """The first recipe that leaves nothing wrong; else, of those that do best in the trial, the best one."""
    tried: list[tuple[int, Recipe]] = []
    for recipe in recipes:
        tried.append((sum(trial(recipe).values()), recipe))
        if not tried[-1][0] and not any(whole(recipe).values()):
            return recipe
    tried.sort(key=lambda one: one[0])
    return min((recipe for _, recipe in tried[:FINALISTS]), key=lambda recipe: sum(whole(recipe).values()))

"""All of ``parity drift`` as one dictionary, for JSON, table and plot: portraits, pairs, knobs, replays, growth."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from . import stimulus
from .contract.plan import Plan
from .contract.problem import Problem
from .drift import adding, pair, replay
from .epilogue import EXACT
from .growth import along_k, with_depth
from .judge import FUSED
from .knobs import turns
from .portrait import Portrait, portrait_of
from .session import RUNNERS, Session

SCHEMA = "parity.drift/1"
SEED = 11


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is asked: of which runners, of which problem, how far drift is followed. ``tensor``: on a GPU, whose fused
    runners add as the contract says; an interpreter's GEMMs add as its library does."""

    problem: Problem
    tensor: bool
    runners: Sequence[str] = tuple(RUNNERS)
    lengths: Sequence[int] = ()
    depth: int = 0


def report(session: Session, asked: Asked) -> dict[str, Any]:
    """Asks, fits, turns and counts. Runners that fail are in "errors" and nowhere else."""
    problem, plan = asked.problem, Plan()
    arrays = stimulus.generate(problem, "normal", SEED)
    answer = session.ask(problem, arrays, plan, asked.runners)
    found = answer.stages
    portraits = {
        runner: portrait_of(session, problem, arrays, plan, runner, stages, asked.tensor)
        for runner, stages in found.items()
    }
    fused = {runner: portraits[runner] for runner in FUSED if runner in portraits}
    pairs = [pair(problem, arrays, found, portraits[a], portraits[b]) for a, b in combinations(portraits, 2)]
    turned = list(turns(session, problem, arrays, fused, found, asked.tensor)) if fused else []
    replays = [
        replay(session, problem, arrays, portraits[vendor], found[vendor], runner)
        for vendor, runner in (("xla", "jaxfused"), ("eager", "torchfused"))
        if vendor in portraits and runner in fused
    ]
    result = {
        "problem": asdict(problem),
        "errors": answer.errors,
        "portraits": [_described(portrait, problem) for portrait in portraits.values()],
        "pairs": [asdict(one) for one in pairs],
        "knobs": [asdict(turn) for turn in turned],
        "replays": [asdict(one) for one in replays],
        "along_k": [asdict(point) for point in along_k(session, problem, asked.lengths, asked.tensor, list(portraits))],
        "with_depth": [asdict(point) for point in with_depth(session, problem, asked.depth, list(portraits))],
    }
    return result | {"reasons": reasons(result, asked.tensor)}


def reasons(result: dict[str, Any], tensor: bool) -> list[str]:
    """Why the result is red: a runner failed; or, on a GPU, a fused runner has bits that no recipe gives, or not the
    contract's, or the twins differ."""
    red = [f"{runner}: {why}" for runner, why in result["errors"].items()]
    if not tensor:
        return red
    for one in (one for one in result["portraits"] if one["runner"] in FUSED):
        wrong = {stage: count for stage, count in one["wrong"].items() if count and one["exact"][stage]}
        red += [f"{one['runner']}: {count} elements of {stage} are unexplained" for stage, count in wrong.items()]
    for one in (one for one in result["pairs"] if (one["a"], one["b"]) == FUSED):
        red += [f"the twins differ in {count} elements of {stage}" for stage, count in one["differ"].items() if count]
    return red


def _described(portrait: Portrait, problem: Problem) -> dict[str, Any]:
    recipe = portrait.recipe
    exact = dict.fromkeys(portrait.wrong, True) | {"h": problem.activation in EXACT}
    return {
        "runner": portrait.runner,
        "rows": portrait.rows,
        "wrong": portrait.wrong,
        "total": portrait.total,
        # A stage whose emulation is no IEEE arithmetic may differ by the hardware's approximations.
        "exact": exact,
        "up": adding(recipe.up.order, recipe.up.adder),
        "down": adding(recipe.down.order, recipe.down.adder),
        "orders": [recipe.up.order.digest, recipe.down.order.digest],
        "bias": [recipe.up.bias, recipe.down.bias],
        "spelling": recipe.spelling,
        "contracted": recipe.contracted,
        "round_s": recipe.round_s,
        "round_f": recipe.round_f,
    }

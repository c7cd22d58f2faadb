"""All of ``parity drift`` as one dictionary, for JSON, table and plot: portraits, pairs, knobs, replays, growth."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from . import stimulus
from .contract.plan import Plan
from .contract.problem import Problem
from .drift import adding, pair, replay
from .epilogue import EXACT
from .growth import Along, Deep, along_k, with_depth
from .judge import FUSED
from .knobs import turns
from .portrait import WORK, Portrait, portrait_of
from .sample import Emulation, Sample
from .session import RUNNERS, Session

SCHEMA = "parity.drift/2"
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
    """Asks, fits, turns and counts, while the workers are asked how drift grows. Runners that fail are in "errors" and
    nowhere else."""
    problem, plan = asked.problem, Plan()
    arrays = stimulus.generate(problem, "normal", SEED)
    answer = session.ask(problem, arrays, plan, asked.runners)
    found = answer.stages
    portraits = {
        runner: portrait_of(session, problem, arrays, plan, runner, stages, asked.tensor)
        for runner, stages in found.items()
    }
    fused = {runner: portraits[runner] for runner in FUSED if runner in portraits}
    with ThreadPoolExecutor(1) as beside:
        # The workers compile and run for it, this process emulates: they wait for each other as little as may be.
        growth = beside.submit(_growth, session, asked, list(portraits))
        emulation = Emulation.on(problem, arrays, Sample.of(problem, WORK))
        pairs = [pair(emulation, found, portraits[a], portraits[b]) for a, b in combinations(portraits, 2)]
        turned = list(turns(session, problem, arrays, fused, found, asked.tensor)) if fused else []
        along, deep = growth.result()
    replays = [
        replay(session, problem, arrays, portraits[vendor], found[vendor], runner)
        for vendor, runner in (("xla", "jaxfused"), ("eager", "torchfused"))
        if vendor in portraits and runner in fused
    ]
    result = {
        "problem": asdict(problem),
        "errors": answer.errors,
        # What follows an activation whose emulation is no IEEE arithmetic may differ by the hardware's approximations.
        "exact": {"s": True, "u": True} | dict.fromkeys(("h", "y"), problem.activation in EXACT),
        "portraits": [_described(portrait, problem) for portrait in portraits.values()],
        "pairs": [asdict(one) for one in pairs],
        "knobs": [asdict(turn) for turn in turned],
        "replays": [asdict(one) for one in replays],
        "along_k": [asdict(point) for point in along],
        "with_depth": [asdict(point) for point in deep],
    }
    return result | {"reasons": reasons(result, asked.tensor)}


def _growth(session: Session, asked: Asked, runners: Sequence[str]) -> tuple[list[Along], list[Deep]]:
    along = list(along_k(session, asked.problem, asked.lengths, asked.tensor, runners))
    return along, list(with_depth(session, asked.problem, asked.depth, runners))


def reasons(result: dict[str, Any], tensor: bool) -> list[str]:
    """Why the result is red: a runner failed, at whatever it was asked; it has bits that no recipe gives, or turned a
    knob and did not as predicted; or, on a GPU, the twins differ.

    What a framework's own GEMMs do is theirs to choose: on a GPU their unexplained bits are counted and no red, on a
    CPU they are none if it is known why their order was not found.
    """
    red = [f"{runner}: {why}" for runner, why in result["errors"].items()]
    for turn in result["knobs"]:
        at = f"with {turn['knob']} {turn['setting']}"
        red += [f"{runner} {at}: {why}" for runner, why in turn["errors"].items()]
        for runner, missed in turn["missed"].items():
            because = f" ({turn['why'][runner]})" if turn["why"].get(runner) else ""
            wrong = {stage: n for stage, n in missed.items() if n and result["exact"][stage]}
            red += [f"{runner} {at}: {n} elements of {stage} are mispredicted{because}" for stage, n in wrong.items()]
    for point in result["along_k"]:
        red += [f"{runner} with {point['k']} summands: {why}" for runner, why in point["failed"].items()]
    for point in result["with_depth"]:
        red += [f"{runner} in layer {point['depth']}: {why}" for runner, why in point["failed"].items()]
    for one in result["portraits"]:
        fused = one["runner"] in FUSED
        for stage, count in one["wrong"].items():
            why = one["why"].get({"h": "", "y": "down"}.get(stage, "up"), "")
            if count and one["exact"][stage] and (fused or not (tensor or why)):
                red.append(f"{one['runner']}: {count} elements of {stage} are unexplained{f' ({why})' * bool(why)}")
    if not tensor:
        return red
    for one in (one for one in result["pairs"] if (one["a"], one["b"]) == FUSED):
        red += [f"the twins differ in {count} elements of {stage}" for stage, count in one["differ"].items() if count]
    return red


def _described(portrait: Portrait, problem: Problem) -> dict[str, Any]:
    recipe = portrait.recipe
    exact = dict.fromkeys(portrait.wrong, True) | {"h": problem.activation in EXACT}
    return {
        "runner": portrait.runner,
        "rows": len(portrait.sample.rows),
        "wrong": portrait.wrong,
        "total": portrait.total,
        "why": portrait.why,
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

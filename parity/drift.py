"""``parity drift``: which bits two runners differ in, and which knob makes each of them differ.

A pair is taken stage by stage, each from the runners' own previous stages: one knob after the other is turned from a's
setting to b's, "came" being what the stage came from. What is left when all are turned is unexplained.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .adder import Adder
from .compare import unlike
from .contract.plan import Plan
from .contract.problem import Problem
from .contract.vendor import Order
from .emulator import ascending
from .epilogue import Product, Recipe, hidden
from .oracle import Stages
from .portrait import CHAINS, Counts, Portrait
from .rounding import round_to
from .sample import LEFT, Emulation
from .session import Session
from .tree import Tree


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One knob of one stage turned from ``a`` to ``b``. Of the elements that differ, ``alone`` become b's when only
    this knob is turned; ``left`` are not yet b's when those before it are turned, too."""

    stage: str
    knob: str
    a: str
    b: str
    alone: int
    left: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two runners: how many elements of each stage differ, the knobs in which their recipes do, and how many elements
    no knob explains."""

    a: str
    b: str
    total: Counts
    differ: Counts
    unexplained: Counts
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """A framework's own MLP, and the fused one told to add in its order: ``split_k``, or None if none gives it. Told
    torch's, it rounds and spells as torch does, too."""

    runner: str
    fused: str
    split_k: tuple[int, int] | None
    differ: Counts = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Knob:
    """A setting of a recipe, and how it is changed; ``say`` puts it in words."""

    name: str
    read: Callable[[Recipe], Any]
    write: Callable[[Recipe, Any], Recipe]
    say: Callable[[Any], str] = str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stage:
    """One stage of a pair: ``compute`` makes it from a recipe and the stages it comes from, ``came``."""

    name: str
    came: tuple[str, ...]
    compute: Callable[[Recipe, Stages], np.ndarray]
    knobs: Sequence[_Knob]


def pair(emulation: Emulation, found: Mapping[str, Stages], a: Portrait, b: Portrait) -> Pair:
    """What makes ``a`` and ``b`` differ, in the sample of the emulation."""
    one, two = (emulation.sample.stages(found[portrait.runner]) for portrait in (a, b))
    total, differ, unexplained, steps = {}, {}, {}, []
    for stage in _stages(emulation):
        mine, other = one[stage.name], two[stage.name]
        apart = unlike(mine, other)
        total[stage.name], differ[stage.name], unexplained[stage.name] = int(apart.size), int(apart.sum()), 0
        if not apart.any():
            continue
        recipe, came = a.recipe, one
        last = stage.compute(recipe, came)
        wrong = unlike(last, mine)
        # The next stage reads all of a tap's bits, also those that the other runner's narrower tap has not.
        turned = [name for name in stage.came if not np.array_equal(one[name], two[name], equal_nan=True)]
        moved = [name for name in turned if unlike(one[name], two[name]).any()]
        taps = " and ".join("h" if name == LEFT else name for name in moved or turned)
        knobs = [knob for knob in stage.knobs if knob.read(a.recipe) != knob.read(b.recipe)]
        for knob in ([None] if turned else []) + knobs:
            only = a.recipe if knob is None else knob.write(a.recipe, knob.read(b.recipe))
            recipe = recipe if knob is None else knob.write(recipe, knob.read(b.recipe))
            came = two if turned else one
            alone = stage.compute(only, two if knob is None else one)
            last = stage.compute(recipe, came)
            steps.append(
                Step(
                    stage=stage.name,
                    knob=knob.name if knob else f"{taps} it came from" if moved else f"{taps} it came from, rounded",
                    a=knob.say(knob.read(a.recipe)) if knob else a.runner,
                    b=knob.say(knob.read(b.recipe)) if knob else b.runner,
                    alone=int((apart & ~unlike(alone, other)).sum()),
                    left=int((apart & unlike(last, other)).sum()),
                )
            )
        unexplained[stage.name] = int((apart & (wrong | unlike(last, other))).sum())
    return Pair(a=a.runner, b=b.runner, total=total, differ=differ, unexplained=unexplained, steps=steps)


def _stages(emulation: Emulation) -> Iterator[_Stage]:
    problem = emulation.problem

    def up(layer: str) -> Callable[[Recipe, Stages], np.ndarray]:
        return lambda recipe, came: emulation.linear(recipe, layer, emulation.arrays["x"])

    def act(recipe: Recipe, came: Stages) -> np.ndarray:
        return round_to(hidden(problem, came["s"], came.get("u"), recipe), problem.dtype)

    def down(recipe: Recipe, came: Stages) -> np.ndarray:
        return round_to(emulation.linear(recipe, "down", came[LEFT]), problem.dtype)

    first = {"s": "gate", "u": "up"} if problem.gated else {"s": "up"}
    for name, layer in first.items():
        yield _Stage(name=name, came=(), compute=up(layer), knobs=[*_product("up"), _plain("round_s", "s is rounded")])
    act_knobs = [
        _plain("spelling", "spelling"),
        _plain("contracted", "fma in the activation"),
        _plain("round_f", "rounded before the gate"),
    ]
    yield _Stage(name="h", came=tuple(first), compute=act, knobs=act_knobs)
    yield _Stage(name="y", came=(LEFT,), compute=down, knobs=_product("down"))


def _plain(name: str, text: str) -> _Knob:
    def write(recipe: Recipe, value: Any) -> Recipe:
        return replace(recipe, **{name: value})

    return _Knob(name=text, read=lambda recipe: getattr(recipe, name), write=write)


def _product(gemm: str) -> list[_Knob]:
    """How one GEMM adds. An order goes with its adder: a fused add's is none of an IEEE one."""

    def how(recipe: Recipe) -> Product:
        return getattr(recipe, gemm)

    def change(recipe: Recipe, **values: Any) -> Recipe:
        return replace(recipe, **{gemm: replace(how(recipe), **values)})

    return [
        _Knob(
            name="order of summation",
            read=lambda recipe: (how(recipe).order, how(recipe).adder),
            write=lambda recipe, value: change(recipe, order=value[0], adder=value[1]),
            say=lambda value: adding(*value),
        ),
        _Knob(
            name="place of the bias",
            read=lambda recipe: how(recipe).bias,
            write=lambda recipe, value: change(recipe, bias=value),
        ),
    ]


def adding(order: Tree, adder: Adder) -> str:
    """An order and what adds in it, in words."""
    kind = f"fused, {adder.fraction} bits" if adder.fused else "fma" if adder.contracted else "mul, add"
    return f"{order}, {kind}" + (f", tf32 {adder.tf32}" if adder.tf32 else "")


def replay(
    session: Session, problem: Problem, arrays: Mapping[str, np.ndarray], vendor: Portrait, stages: Stages, fused: str
) -> Replay:
    """The fused runner told to add as ``vendor`` does, against the vendor's ``stages``, all of them."""
    splits = tuple(_chains(how) for how in (vendor.recipe.up, vendor.recipe.down))
    if None in splits:
        return Replay(runner=vendor.runner, fused=fused, split_k=None)
    chosen = (splits[0] or 1, splits[1] or 1)
    order = Order.VENDOR if vendor.runner == "eager" and problem.precision == "ieee" else Order.FUSED
    answer = session.ask(problem, arrays, Plan(split_k=chosen, order=order), [fused])
    found = answer.stages.get(fused, {})
    differ = {stage: int(unlike(found[stage], tap).sum()) for stage, tap in stages.items() if stage in found}
    return Replay(runner=vendor.runner, fused=fused, split_k=chosen, differ=differ)


def _chains(how: Product) -> int | None:
    for chains in CHAINS:
        if ascending(how.order.leaves, chains=chains, terms=how.adder.terms) == how.order:
            return chains
    return None

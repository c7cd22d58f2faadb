"""What each knob alone is worth: one turned, all others as they were, by the emulator; and where a runner has the knob
itself, what it did, against what was predicted of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .adder import HOPPER, Adder
from .compare import unlike
from .contract.plan import Plan
from .contract.problem import Problem
from .emulator import ascending
from .epilogue import Product, Recipe, stages
from .oracle import Stages
from .portrait import WORK, Counts, Portrait, asked_orders
from .sample import Emulation, Sample
from .session import Session

SPLITS = (2, 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One knob's other setting, and how many elements of each stage it changes, of ``total``. ``observed``: how many a
    runner changed when its own knob was turned; ``missed``: in how many it then was not what had been predicted;
    ``why``: the order in which it then added could not be found; ``errors``: it failed."""

    knob: str
    setting: str
    changed: Counts
    total: Counts
    observed: dict[str, Counts] = field(default_factory=dict)
    missed: dict[str, Counts] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Setting:
    """A recipe with one knob turned. ``plan`` and ``precision``: the real knob that turns it in a fused runner."""

    knob: str
    setting: str
    recipe: Recipe
    plan: Plan | None = None
    precision: str = ""


def turns(
    session: Session,
    problem: Problem,
    arrays: Mapping[str, np.ndarray],
    portraits: Mapping[str, Portrait],
    found: Mapping[str, Stages],
    tensor: bool,
) -> Iterator[Turn]:
    """Every knob that ``problem`` has, turned in the portrait that explains most; real ones in all of them."""
    first = min(portraits.values(), key=lambda portrait: sum(portrait.wrong.values()))
    sample = Sample.of_rows(problem, WORK)
    emulation = Emulation.on(problem, arrays, sample)
    base = emulation.stages(first.recipe)
    for setting in _settings(problem, first.recipe, tensor):
        after = emulation.stages(setting.recipe)
        turn = Turn(
            knob=setting.knob,
            setting=setting.setting,
            changed={name: int(unlike(after[name], tap).sum()) for name, tap in base.items()},
            total={name: int(tap.size) for name, tap in base.items()},
        )
        if setting.plan or setting.precision:
            turned = replace(problem, precision=setting.precision) if setting.precision else problem
            answer = session.ask(turned, arrays, setting.plan or Plan(), list(portraits))
            turn.errors.update(answer.errors)
            for runner, taps in answer.stages.items():
                expected = after
                if not tensor:
                    recipe, turn.why[runner] = _asked(session, turned, portraits[runner], setting)
                    expected = stages(turned, emulation.arrays, recipe)
                real, before = sample.stages(taps), sample.stages(found[runner])
                turn.observed[runner] = {name: int(unlike(real[name], before[name]).sum()) for name in base}
                turn.missed[runner] = {name: int(unlike(real[name], expected[name]).sum()) for name in base}
        yield turn


def _asked(session: Session, turned: Problem, portrait: Portrait, setting: _Setting) -> tuple[Recipe, str]:
    """What an interpreter's runner should do with its knob turned, and why that is not known. Its orders are its
    library's, so each runner has its own: they are asked for, not fitted."""
    orders, why = asked_orders(session, turned, setting.plan or Plan(), portrait.runner)
    how = {gemm: replace(getattr(portrait.recipe, gemm), order=order) for gemm, order in orders.items()}
    if setting.precision:
        how = {gemm: replace(one, adder=replace(one.adder, tf32="away")) for gemm, one in how.items()}
    return replace(portrait.recipe, **how), "; ".join(f"{gemm}: {text}" for gemm, text in why.items())


def _settings(problem: Problem, base: Recipe, tensor: bool) -> Iterator[_Setting]:
    narrow = problem.dtype != "float32"
    adder = base.up.adder
    for split in SPLITS:
        yield _Setting(
            knob="order of summation",
            setting=f"split_k {split}",
            recipe=_adding(base, adder, split),
            plan=Plan(split_k=split),
        )
    core = HOPPER["tf32" if problem.precision == "tf32" or not narrow else problem.dtype]
    if adder.fused:
        yield _Setting(knob="what adds", setting="IEEE, fma", recipe=_adding(base, Adder(tf32=adder.tf32)))
        nearest = _adders(base, rounding="nearest")
        yield _Setting(knob="rounding of a fused add", setting="to nearest", recipe=nearest)
        fewer = _adders(base, fraction=24)
        yield _Setting(knob="fraction bits of a fused add", setting="24", recipe=fewer)
    else:
        text = "mul, add" if adder.contracted else "fma"
        yield _Setting(knob="fma in the GEMMs", setting=text, recipe=_adders(base, contracted=not adder.contracted))
        fused = replace(core, tf32=adder.tf32)
        text = f"tensor core, {core.terms}+1"
        yield _Setting(knob="what adds", setting=text, recipe=_adding(base, fused))
    if not narrow and problem.precision == "ieee":
        away = _adding(base, core) if tensor else _adders(base, tf32="away")
        yield _Setting(knob="tf32", setting="nearest, ties away", recipe=away, precision="tf32")
        yield _Setting(knob="tf32", setting="cut off", recipe=_adders(away, tf32="zero"))
    if problem.precision == "tf32":
        yield _Setting(knob="tf32", setting="cut off", recipe=_adders(base, tf32="zero"))
    if problem.bias_up or problem.bias_down or problem.bias_gate:
        yield _Setting(knob="place of the bias", setting="first", recipe=_each(base, bias="first"))
        if narrow:
            yield _Setting(knob="place of the bias", setting="after a rounding", recipe=_each(base, bias="rounded"))
    other = "framework" if base.spelling == "contract" else "contract"
    yield _Setting(knob="spelling", setting=other, recipe=replace(base, spelling=other))
    yield _Setting(
        knob="fma in the activation",
        setting="off" if base.contracted else "on",
        recipe=replace(base, contracted=not base.contracted),
    )
    if narrow:
        yield _Setting(knob="s is rounded", setting=str(not base.round_s), recipe=_flipped(base, "round_s"))
        yield _Setting(knob="h is rounded", setting="False", recipe=_flipped(base, "round_h"))


def _flipped(base: Recipe, name: str) -> Recipe:
    return replace(base, **{name: not getattr(base, name)})


def _each(base: Recipe, **changes: Any) -> Recipe:
    return replace(base, up=replace(base.up, **changes), down=replace(base.down, **changes))


def _adders(base: Recipe, **changes: Any) -> Recipe:
    # Each GEMM's own: a runner that adds as no other may add in two ways.
    up, down = (replace(how, adder=replace(how.adder, **changes)) for how in (base.up, base.down))
    return replace(base, up=up, down=down)


def _adding(base: Recipe, adder: Adder, chains: int = 1) -> Recipe:
    def of(how: Product) -> Product:
        return replace(how, order=ascending(how.order.leaves, chains=chains, terms=adder.terms), adder=adder)

    return replace(base, up=of(base.up), down=of(base.down))

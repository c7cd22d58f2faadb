"""Outputs of real kernels kept as files, and what the emulator makes of the same inputs: ``parity golden``.

A vector is one small problem, its operands and a runner's stages; a file holds many and each array once. The emulator
must give every bit of every stage, from the operands on; a check does the same for a million outputs that are not kept.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from . import epilogue, stimulus
from .compare import same_bits
from .contract.choice import limitation
from .contract.plan import Backend, Plan, Strategy
from .contract.problem import Device, Problem
from .emulator import ascending
from .judge import FUSED
from .oracle import Stages
from .portrait import adders
from .protocol import digest, plan_from_dict
from .rounding import NUMPY_DTYPES, round_to
from .session import Answer, Session

SCHEMA = "parity.golden/1"
STAGES = ("s", "h", "y")
# Powers of two by which operands are spread, so that terms meet that are many binades apart.
SPREAD = 4
DTYPES = (("float16", "ieee"), ("bfloat16", "ieee"), ("float32", "tf32"), ("float32", "ieee"))
# (m, in, hidden, out), and whether its operands are spread: a ragged one, and a deep one.
SMALL = {"ragged": ((5, 200, 100, 24), True), "deep": ((3, 1024, 16, 16), False)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One problem under one plan; ``seed`` and ``spread`` make its operands, the same for all plans of a problem."""

    problem: Problem
    plan: Plan
    spread: bool = False

    @property
    def seed(self) -> int:
        p = self.problem
        return zlib.crc32(repr((p.m, p.in_features, p.hidden_features, p.out_features, p.dtype)).encode())

    def operands(self) -> dict[str, np.ndarray]:
        arrays = stimulus.generate(self.problem, "normal", self.seed)
        if not self.spread:
            return arrays
        generator = np.random.Generator(np.random.PCG64(self.seed))

        def spread(a: np.ndarray) -> np.ndarray:
            return round_to(np.ldexp(a.astype(np.float64), generator.integers(-SPREAD, SPREAD, a.shape)), a.dtype.name)

        return {name: spread(array) for name, array in arrays.items()}

    def __str__(self) -> str:
        p = self.problem
        kind = "tf32" if p.precision == "tf32" else p.dtype
        sizes = f"{p.m}x{p.in_features}x{p.hidden_features}x{p.out_features}"
        return f"{p.activation} {kind} {sizes}, {self.plan.strategy}/{self.plan.backend} split_k {self.plan.split_k}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Of one runner's stages: how many elements there are, and how many have other bits than the emulator's. ``at``:
    the first of them. ``instead``: how many would be wrong with another adder. ``why``: the runner failed."""

    item: Item
    runner: str
    outputs: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, int] = field(default_factory=dict)
    at: dict[str, list[int]] = field(default_factory=dict)
    instead: dict[str, int] = field(default_factory=dict)
    why: str = ""

    @property
    def red(self) -> bool:
        return bool(self.why) or any(self.wrong.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Vector:
    """What a file keeps of one item: its operands, and the stages that ``runner`` gave."""

    item: Item
    runner: str
    operands: dict[str, np.ndarray]
    stages: Stages


def small(device: Device) -> list[Item]:
    """The problems whose vectors are kept, those that ``device`` can run."""
    items = [
        Item(problem=_problem(sizes, dtype, precision, activation), plan=Plan(split_k=split), spread=spread)
        for (dtype, precision), (sizes, spread), activation, split in product(
            DTYPES, SMALL.values(), ("identity", "relu"), (1, 2, 4)
        )
        if (activation == "relu" or (split == 1 and spread)) and (spread or split != 2)
    ]
    return _served(items, device)


def large(device: Device) -> list[Item]:
    """A million elements of s for each dtype and backend, and one layer as deep as a language model's. None for an
    interpreter, to which they are hours."""
    if device.kind != "gpu":
        return []
    wide, few = (1024, 512, 1024, 1024), (64, 512, 16384, 64)
    items = [Item(problem=_problem(wide, dtype, precision, "relu"), plan=Plan()) for dtype, precision in DTYPES]
    items += [Item(problem=_problem(wide, "bfloat16", "ieee", "relu2"), plan=Plan(split_k=(2, 4)), spread=True)]
    for backend, dtype in product(Backend, ("bfloat16", "float16")):
        plan = Plan(strategy=Strategy.DECODE, backend=backend)
        items.append(Item(problem=_problem(few, dtype, "ieee", "relu"), plan=plan))
    items.append(Item(problem=_problem((256, 4096, 4096, 256), "bfloat16", "ieee", "relu"), plan=Plan(split_k=2)))
    return _served(items, device)


def _served(items: list[Item], device: Device) -> list[Item]:
    return [item for item in items if limitation(item.problem, device, item.plan) is None]


def _problem(sizes: tuple[int, int, int, int], dtype: str, precision: str, activation: str) -> Problem:
    m, k, h, n = sizes
    return Problem(
        m=m, in_features=k, hidden_features=h, out_features=n, activation=activation,
        bias_up=True, bias_down=True, dtype=dtype, precision=precision,
    )  # fmt: skip


def predicted(item: Item, operands: Mapping[str, np.ndarray]) -> Stages:
    return epilogue.stages(item.problem, operands, epilogue.contract(item.problem, item.plan))


def checked(item: Item, runner: str, stages: Mapping[str, np.ndarray], expected: Stages) -> Prediction:
    """``stages`` against the emulator's. A stage that is missing or of another shape is wrong in all its elements."""
    outputs, wrong, at = {}, {}, {}
    for stage in STAGES:
        other = differing(stages.get(stage, np.zeros(0)), expected[stage])
        outputs[stage], wrong[stage] = other.size, int(other.sum())
        if wrong[stage]:
            at[stage] = [int(i) for i in np.argwhere(other)[0]]
    return Prediction(item=item, runner=runner, outputs=outputs, wrong=wrong, at=at)


def instead(check: Prediction, operands: Mapping[str, np.ndarray], stages: Mapping[str, np.ndarray]) -> Prediction:
    """A red check with what other adders would have given: a hint at what the kernel does."""
    if not check.red:
        return check
    problem = check.item.problem
    recipe = epilogue.contract(problem, check.item.plan)
    sizes = zip((problem.in_features, problem.hidden_features), check.item.plan.splits, strict=True)
    lengths, found = list(sizes), {}
    for adder in adders(problem, tensor=True):
        orders = (ascending(n, chains=chains, terms=adder.terms) for n, chains in lengths)
        up, down = (epilogue.Product(order=order, adder=adder) for order in orders)
        other = epilogue.stages(problem, operands, replace(recipe, up=up, down=down))
        found[str(adder)] = sum(checked(check.item, check.runner, stages, other).wrong.values())
    return replace(check, instead=found)


def differing(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where the bits of ``a`` are not those of ``b`` (NaN is NaN); everywhere, if shape or dtype are others."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return np.ones(b.shape, bool)
    return ~same_bits(a, b)


def capture(sessions: Sequence[Session], items: Iterable[Item], done: Callable[[Prediction], None]) -> list[Vector]:
    """The fused runners' vectors of ``items``; each is checked, too."""
    vectors = []
    for item, answer in _answers(sessions, items):
        operands = item.operands()
        expected = predicted(item, operands)
        for check in _checks(item, answer, expected):
            done(check if check.why else instead(check, operands, answer.stages[check.runner]))
        vectors += [
            Vector(item=item, runner=runner, operands=operands, stages={name: stages[name] for name in STAGES})
            for runner, stages in answer.stages.items()
        ]
    return vectors


def check(
    sessions: Sequence[Session], items: Sequence[Item], done: Callable[[Prediction], None], jobs: int = 1
) -> None:
    """Each of ``items`` on both fused runners; the emulator works on ``jobs`` of them at a time."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        expected = {item: pool.submit(_expected, item) for item in items}
        for item, answer in _answers(sessions, items):
            for check in _checks(item, answer, expected[item].result()):
                done(check)


def _answers(sessions: Sequence[Session], items: Iterable[Item]) -> Iterator[tuple[Item, Answer]]:
    """What the fused runners say to each of ``items``, as many at a time as there are sessions."""
    free: SimpleQueue[Session] = SimpleQueue()
    for session in sessions:
        free.put(session)

    def one(item: Item) -> tuple[Item, Answer]:
        session = free.get()
        try:
            return item, session.ask(item.problem, item.operands(), item.plan, FUSED)
        finally:
            free.put(session)

    with ThreadPoolExecutor(len(sessions)) as pool:
        yield from pool.map(one, items)


def _checks(item: Item, answer: Answer, expected: Stages) -> Iterator[Prediction]:
    for runner, why in answer.errors.items():
        yield Prediction(item=item, runner=runner, why=why)
    for runner, stages in answer.stages.items():
        yield checked(item, runner, stages, expected)


def _expected(item: Item) -> Stages:
    return predicted(item, item.operands())


def save(vectors: list[Vector], path: Path) -> None:
    """Writes an .npz: each array once, as raw integers, by its hash; and "index", JSON that says what is what."""
    arrays: dict[str, np.ndarray] = {}

    def kept(array: np.ndarray) -> list[str]:
        name = digest(array.tobytes() + repr((array.shape, array.dtype.name)).encode())[:12]
        arrays[name] = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
        return [name, array.dtype.name]

    index = [
        {
            "problem": asdict(vector.item.problem),
            "plan": asdict(vector.item.plan),
            "spread": vector.item.spread,
            "runner": vector.runner,
            "operands": {name: kept(array) for name, array in vector.operands.items()},
            "stages": {name: kept(array) for name, array in vector.stages.items()},
        }
        for vector in vectors
    ]
    arrays["index"] = np.array(json.dumps(index))
    np.savez_compressed(path, **arrays)  # pyright: ignore[reportArgumentType]


def load(path: Path) -> Iterator[Vector]:
    """The vectors of a file."""
    with np.load(path, allow_pickle=False) as file:
        for entry in json.loads(str(file["index"])):

            def read(names: dict[str, list[str]]) -> dict[str, np.ndarray]:
                return {name: file[key].view(NUMPY_DTYPES[dtype]) for name, (key, dtype) in names.items()}

            plan = plan_from_dict(entry["plan"])
            item = Item(problem=Problem(**entry["problem"]), plan=plan, spread=entry["spread"])
            yield Vector(
                item=item, runner=entry["runner"], operands=read(entry["operands"]), stages=read(entry["stages"])
            )  # fmt: skip


def recheck(path: Path) -> list[Prediction]:
    """The emulator against every vector of a file; what has the same operands and plan is emulated once."""
    known: dict[Item, Stages] = {}
    found = []
    for vector in load(path):
        if vector.item not in known:
            known[vector.item] = predicted(vector.item, vector.operands)
        check = checked(vector.item, vector.runner, vector.stages, known[vector.item])
        found.append(instead(check, vector.operands, vector.stages))
    return found


def described(check: Prediction) -> dict[str, Any]:
    """A check, for JSON."""
    item = check.item
    return {
        "runner": check.runner, "problem": asdict(item.problem), "plan": str(item.plan), "spread": item.spread,
        "outputs": check.outputs, "wrong": check.wrong, "at": check.at, "instead": check.instead,
        "why": check.why,
    }  # fmt: skip

"""``parity vendor``: in how many chains torch's eager GEMMs sum, and whether both twins give its MLP's every bit so.

A 16-bit MLP is promised where the orders of both its GEMMs are recorded of this device and torch build, or were
recovered now; then a single other bit of y is red. To recover no order where one is recorded, or another, is red too.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from .contract import vendor as contract
from .contract.activations import ACTIVATIONS
from .contract.plan import DECODE_CHAINS, Plan, Strategy
from .contract.problem import Problem
from .contract.vendor import Order, products
from .process import Message, Worker, WorkerError
from .vendor_worker import Layer, Mlp

SCHEMA = "parity.vendor/1"
HALF_ROWS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
# (Without tensor cores, more rows take long.)
ROWS = {"bfloat16": HALF_ROWS, "float16": HALF_ROWS, "float32": (1, 64)}
# The types whose orders are kept. float32's sums, on no tensor core, came in chains for 8 of 50 products on an H100,
# and an MLP of two of these differed from eager's all the same: it is asked for, and not promised.
KEPT = ("bfloat16", "float16")
# At which rows an MLP is run: all, and more of some.
FEW, MORE = (1, 64, 1024), (16, 256, 4096)
# At which a decode plan is, too.
DECODED = (1, 16)
# One layer for every activation, plain and gated.
LAYER = Problem(m=64, in_features=1024, hidden_features=4096, out_features=1024)
SECONDS = 300.0
# In how many chains a layer is summed at a number of rows.
Orders = Mapping[tuple[str, int], int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovered:
    """One layer at ``m`` rows: in how many of the contract's ``chains`` eager sums, None if in none that was tried
    (``equal``: the share of sums that each gave)."""

    layer: str
    m: int
    chains: int | None = None
    equal: Mapping[str, float] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """One MLP: of ``total`` elements of y, how many ``differ`` between torchfused and eager, by stage where any do; and
    which runners have eager's y. ``promised``: both orders are known, and kept."""

    problem: Problem
    plan: str
    promised: bool
    total: int = 0
    equal: Mapping[str, bool] = field(default_factory=dict)
    differ: Mapping[str, int] = field(default_factory=dict)
    at: Mapping[str, list[int]] = field(default_factory=dict)
    why: str = ""

    @property
    def red(self) -> bool:
        return self.promised and (bool(self.why) or not self.equal or not all(self.equal.values()))

    def __str__(self) -> str:
        p = self.problem
        form = f"{'gated ' if p.gated else ''}{p.activation}{' biased' if p.bias_up else ''}"
        return f"{form} {p.dtype} {p.m}x{p.in_features}x{p.hidden_features}x{p.out_features} {self.plan}"


def problems(workloads: Path) -> list[Problem]:
    """The MLPs that are run: those of a file such as bench/workloads.json, and every activation in one layer."""
    named = json.loads(workloads.read_text())["workloads"]
    found = []
    for w in named.values():
        whole = Problem(
            m=1, in_features=w["in"], hidden_features=w["hidden"], out_features=w["out"], activation=w["activation"],
            gated=w["gated"], bias_up=w["biases"], bias_gate=w["biases"] and w["gated"], bias_down=w["biases"],
            dtype="bfloat16",
        )  # fmt: skip
        # The first of each form at more rows, and in all types.
        first = not any(p.gated == whole.gated for p in found)
        found += [replace(whole, m=m) for m in (*FEW, *(MORE if first else ()))]
        if first:
            found += [replace(whole, m=m, dtype="float16") for m in FEW] + [replace(whole, m=64, dtype="float32")]
    for name in ACTIVATIONS:
        for gated in (False, True):
            for dtype in ("bfloat16", "float16"):
                biased = not gated
                found.append(
                    replace(LAYER, activation=name, gated=gated, bias_up=biased, bias_down=biased, dtype=dtype)
                )
    return list(dict.fromkeys(found))


def layers(asked: Iterable[Problem]) -> list[Layer]:
    """The products of ``asked``, each in all types and at all rows of the type."""
    found = {}
    for problem in asked:
        k, h, n = problem.in_features, problem.hidden_features, problem.out_features
        for inner, outer, bias in ((k, h, problem.bias_up), (h, n, problem.bias_down)):
            for dtype, rows in ROWS.items():
                layer = Layer(dtype=dtype, inner=inner, outer=outer, bias=bias, rows=rows)
                found[contract.layer(dtype, inner, outer, bias)] = layer
    return list(found.values())


class Lanes:
    """Both workers, so many times over: kernels are compiled on the host, side by side."""

    def __init__(self, lanes: Sequence[Sequence[Worker]]) -> None:
        self.lanes = lanes
        self.free: SimpleQueue[Sequence[Worker]] = SimpleQueue()
        for lane in lanes:
            self.free.put(lane)

    def __enter__(self) -> "Lanes":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in (worker for lane in self.lanes for worker in lane):
            worker.close()

    @property
    def greetings(self) -> dict[str, Any]:
        """What each worker said of itself: the first of a name that has come up, or nothing."""
        found: dict[str, Any] = {}
        for worker in (worker for lane in self.lanes for worker in lane):
            found[worker.spec.name] = found.get(worker.spec.name) or worker.hello
        return found

    def ask(self, names: Sequence[str], questions: Sequence[Message]) -> Iterator[dict[str, dict[str, Any]]]:
        """What the workers of these names say to each question, in order; "error" of one that has died."""

        def one(question: Message) -> dict[str, dict[str, Any]]:
            lane = self.free.get()
            workers = {worker.spec.name: worker for worker in lane if worker.spec.name in names}
            try:
                found = {name: _said(worker.send, question) for name, worker in workers.items()}
                return {name: found[name] or _said(worker.receive, SECONDS) for name, worker in workers.items()}
            finally:
                self.free.put(lane)

        with ThreadPoolExecutor(len(self.lanes)) as pool:
            yield from pool.map(one, questions)


def _said(what: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    try:
        return what(*arguments) or {}
    except WorkerError as error:
        return {"error": str(error)}


def recover(lanes: Lanes, asked: Sequence[Layer]) -> Iterator[Recovered]:
    """The order of each layer's product, at each number of rows."""
    for layer, said in zip(asked, lanes.ask(("torch",), asked), strict=True):
        name = contract.layer(layer.dtype, layer.inner, layer.outer, layer.bias)
        if said["torch"]["error"]:
            yield from (Recovered(layer=name, m=m, why=said["torch"]["error"]) for m in layer.rows)
        else:
            yield from (Recovered(layer=name, **row) for row in said["torch"]["rows"])


def recorded(device: str, vendor: str) -> Orders:
    """The orders on record of a device and this torch build."""
    record = contract.records().get(device)
    if record is None or record.vendor != vendor:
        return {}
    return {(name, m): chains for name, rows in record.chains.items() for m, chains in rows.items()}


def orders(found: Iterable[Recovered], record: Orders) -> Orders:
    """What a plan of the vendor's order sums in: as recorded, and otherwise as was recovered."""
    return {(one.layer, one.m): one.chains for one in found if one.chains} | dict(record)


def mlps(asked: Iterable[Problem], orders: Orders) -> list[tuple[Mlp, bool]]:
    """Each MLP under the plans that replay it, and whether that is promised; one chain each where no order is known."""
    found = []
    for problem in asked:
        (up, *_), (down,) = products(problem)
        splits = orders.get((up, problem.m)), orders.get((down, problem.m))
        plan = Plan(order=Order.VENDOR, split_k=(splits[0] or 1, splits[1] or 1))
        promised = None not in splits and problem.dtype in KEPT
        found.append((Mlp(problem=problem, plan=plan), promised))
        if problem.m in DECODED and all(n <= DECODE_CHAINS and not n & (n - 1) for n in plan.splits):
            found.append((Mlp(problem=problem, plan=replace(plan, strategy=Strategy.DECODE)), promised))
    return found


def replay(lanes: Lanes, asked: Sequence[tuple[Mlp, bool]]) -> Iterator[Replay]:
    """Both twins against eager, MLP by MLP."""
    answers = lanes.ask(("jax", "torch"), [mlp for mlp, _ in asked])
    for (mlp, promised), said in zip(asked, answers, strict=True):
        jax, torch = said["jax"], said["torch"]
        one = Replay(problem=mlp.problem, plan=str(mlp.plan), promised=promised)
        why = "; ".join(f"{name}: {answer['error']}" for name, answer in said.items() if answer["error"])
        if not why and jax["operands"] != torch["operands"]:
            why = "the workers drew different operands"
        if why:
            yield replace(one, why=why)
            continue
        equal = {"torchfused": torch["torchfused"] == torch["eager"], "jaxfused": jax["jaxfused"] == torch["eager"]}
        yield replace(one, total=torch["total"], equal=equal, differ=torch["differ"], at=torch["at"])


def reasons(found: Iterable[Recovered], replays: Sequence[Replay], record: Orders) -> list[str]:
    """All that is red, in words; nothing may be kept of a run that is. To promise nothing is to check nothing."""
    rows: dict[tuple[str, str], list[int]] = {}
    for one in found:
        why = _broken(one, record.get((one.layer, one.m)))
        if why:
            rows.setdefault((one.layer, why), []).append(one.m)
    texts = [f"{name} at {', '.join(map(str, at))} rows: {why}" for (name, why), at in rows.items()]
    for one in (one for one in replays if one.red):
        other = " and ".join(name for name, equal in one.equal.items() if not equal)
        texts.append(f"{one}: {one.why or (f'other bits than eager in {other}' if other else 'nothing was compared')}")
    if not any(one.promised for one in replays):
        texts.append("no MLP is promised: of none are the orders of both GEMMs known")
    return texts


def _broken(one: Recovered, chains: int | None) -> str:
    """What is red of a layer that is on record in so many ``chains``, or in none."""
    if not one.layer.startswith(KEPT):
        return ""
    if one.why or chains is None or one.chains == chains:
        return one.why
    now = f"it adds in {one.chains}" if one.chains else "it adds in no order that was tried"
    return f"recorded in {chains} chains, {now}; if the record is wrong, delete it from {contract.FILE.name}"


def merged(found: Iterable[Recovered], device: str, vendor: str) -> str:
    """contract/vendor_orders.json with what was recovered: a device's record of another vendor goes, and of this one
    each layer's rows that were asked for again and answered."""
    records = {name: (record.vendor, {k: dict(v) for k, v in record.chains.items()}) for name, record in _records()}
    known = records[device][1] if device in records and records[device][0] == vendor else {}
    for one in (one for one in found if not one.why):
        rows = known.setdefault(one.layer, {})
        rows.pop(one.m, None)
        if one.chains and one.layer.startswith(KEPT):
            rows[one.m] = one.chains
    records[device] = vendor, known
    return _text(records)


def _records() -> Iterable[tuple[str, contract.Record]]:
    return contract.records().items()


def _text(records: Mapping[str, tuple[str, Mapping[str, Mapping[int, int]]]]) -> str:
    """A line a layer."""

    def written(chains: Mapping[str, Mapping[int, int]]) -> str:
        return ",\n".join(
            f"   {json.dumps(layer)}: {json.dumps({str(m): rows[m] for m in sorted(rows)})}"
            for layer, rows in sorted(chains.items(), key=lambda item: _order(item[0]))
            if rows
        )

    devices = (
        f' {json.dumps(name)}: {{\n  "vendor": {json.dumps(vendor)},\n  "chains": {{\n{written(chains)}\n  }}\n }}'
        for name, (vendor, chains) in sorted(records.items())
    )
    return "{\n" + ",\n".join(devices) + "\n}\n"


def _order(layer: str) -> tuple:
    dtype, sizes, *bias = layer.split()
    return dtype, *map(int, sizes.split("-")), len(bias)


def described(found: Sequence[Recovered], replays: Sequence[Replay], red: Sequence[str]) -> dict[str, Any]:
    """Everything, for JSON; ``red``: the ``reasons``."""
    return {
        "layers": [asdict(one) for one in found],
        "cases": [asdict(one) | {"red": one.red} for one in replays],
        "reasons": list(red),
    }

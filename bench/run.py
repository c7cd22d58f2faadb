"""The controller: one process a framework, one at a time on the GPU, a file written after every row group."""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import environment
from .contenders_plans import VARIANTS
from .protocol import Worker, WorkerError
from .results import Results, load
from .row import Measured, row, wrong_row
from .workloads import Case

BLOCKS = 4
PREPARE_S, HEAVY_PREPARE_S, MEASURE_S = 90.0, 300.0, 90.0
POWER_S = 0.6


class Unfit(RuntimeError):
    """The run cannot start, or go on in this file; the message says why and the way out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """``only``: words; a case or a contender takes part if one of them is in its name (words that match no case choose
    contenders, and the other way round). ``budget``: seconds after which no case is begun. ``light``: the cases were
    made to do without their heavy contenders."""

    device: str
    cases: tuple[Case, ...]
    path: Path
    only: tuple[str, ...] = ()
    frameworks: tuple[str, ...] = ("torch", "jax")
    variants: tuple[str, ...] = tuple(VARIANTS)
    budget: float = float("inf")
    blocks: int = BLOCKS
    commit: str | None = None
    light: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What the caller is told: which case, of how many, and what became of it."""

    done: int
    total: int
    case: Case | None
    text: str


class Run:
    """One run over the settings' cases."""

    def __init__(self, settings: Settings, say: Callable[[Step], None] = lambda step: None) -> None:
        self._settings = settings
        self._say = say
        self._start = time.monotonic()
        self._took: dict[bool, list[float]] = {False: [], True: []}
        self._workers: list[Worker] = []
        self._hello: dict[str, dict] = {}
        self._cases, self._words = choose(settings)
        self._chooses = bool(self._words) or settings.light or len(settings.frameworks) < 2

    def __call__(self) -> Results:
        """All cases, in order, as far as the budget goes. Finished ones in the file are not measured again."""
        results = self._open()
        try:
            self._begin(results)
            todo = [c for c in self._cases if c.key not in results.finished]
            done = len(self._cases) - len(todo)
            for case in todo:
                if self._left() < self._expected(case):
                    self._say(Step(done=done, total=len(self._cases), case=case, text="the time is used up"))
                    break
                self._say(Step(done=done, total=len(self._cases), case=case, text="measuring"))
                began = time.monotonic()
                try:
                    rows, entry, problems = self._measure(case)
                except WorkerError as error:
                    results.problems.append(_failure(case.key, error.during, str(error)))
                    results.save()
                    continue
                self._took[case.heavy].append(time.monotonic() - began)
                done += 1
                results.rows += rows
                results.problems += problems
                results.cases.append({**entry, "seconds": round(time.monotonic() - began, 2)})
                results.save()
                self._say(Step(done=done, total=len(self._cases), case=case, text=f"{len(rows)} rows"))
            self._shares(results)
        finally:
            for worker in self._workers:
                worker.kill()
        return results

    def _open(self) -> Results:
        path = self._settings.path
        return load(path) if path.exists() else Results(path=path)

    def _begin(self, results: Results) -> None:
        versions: dict[str, str] = {}
        started = workers(self._settings)
        for worker in started:
            # All at once: importing a framework takes seconds, on a core of its own.
            worker.start()
        for worker in started:
            self._say(Step(done=0, total=len(self._cases), case=None, text=f"starting {worker.name}"))
            try:
                hello = worker.call("hello", timeout=PREPARE_S)
            except WorkerError as error:
                results.note_absent(worker.name.split("_")[0], worker.name, str(error))
                worker.kill()
                continue
            self._workers.append(worker)
            self._hello[worker.name] = hello
            versions |= hello["versions"]
            for c in hello["contenders"]:
                if c["absent"]:
                    results.note_absent(hello["framework"], c["name"], c["absent"])
        if not self._workers:
            reasons = "; ".join(f"{a['contender']}: {a['reason']}" for a in results.absent)
            raise Unfit(f"no worker could start: {reasons}")
        here = environment.describe(self._settings.device, versions, self._settings.commit)
        chip = self._hello[self._workers[0].name]
        here |= {k: chip[k] for k in ("l2_bytes", "sm_count")}
        fixed = ("gpu", "driver", "versions")
        if results.environment and any(results.environment[k] != here[k] for k in fixed):
            raise Unfit(
                f"{results.path} was measured on {results.environment['gpu']} with other versions; "
                f"give another --json: rows of two machines are never mixed in one file"
            )
        results.environment = results.environment or here
        self._workers[0].call("warm", timeout=60)

    def _measure(self, case: Case) -> tuple[list[dict], dict, list[dict]]:
        """The rows of one case, its entry in ``cases``, its problems."""
        problems: list[dict] = []
        plans: dict[str, dict] = {}
        with tempfile.TemporaryDirectory() as folder:
            layers = 2
            for worker in self._workers:
                prepared = self._prepare(worker, case, str(Path(folder) / "reference.npz"), layers, problems)
                if prepared is not None:
                    plans[worker.name] = prepared
                    layers = prepared["layers"]
        if not plans:
            raise WorkerError(f"no worker could prepare {case.key}", fatal=False)
        samples: dict[str, dict[str, list[list[float]]]] = {}
        clocks = []
        for i in range(self._settings.blocks):
            # A B | B A | A B ...: over the workers here; the contenders inside each take turns (rounds.py).
            for worker in reversed(self._ready(plans)) if i % 2 else self._ready(plans):
                answer = worker.call("block", timeout=self._limit(MEASURE_S), seed=i)
                clocks.append(answer["clock"])
                for key, s in answer["samples"].items():
                    entry = samples.setdefault(key, {"kernel": [], "wall": []})
                    entry["kernel"].append(s["kernel"])
                    entry["wall"].append(s["wall"])
        traces, powers = self._afterwards(case, plans, problems)
        roofs: dict[str, dict[str, float]] = {}
        for name in {n for plan in plans.values() for n in plan["roofs"]}:
            times = {"replay": samples[name]["kernel"], "cupti": [traces.get(name, {}).get("kernel", [])]}
            roofs[name.removeprefix("roof.")] = {how: _median(b) for how, b in times.items() if any(b)}
        rows = []
        for name, plan in plans.items():
            framework = self._hello[name]["framework"]
            for e in plan["ready"]:
                key = e["key"]
                if key not in samples:
                    continue
                m = Measured(
                    framework=framework,
                    entry=e,
                    kernel=samples[key]["kernel"],
                    wall=samples[key]["wall"],
                    trace=traces.get(key, {}),
                    power=powers.get(key, {}),
                )
                rows.append(row(case, m, roofs, plan["layers"]))
            rows += [wrong_row(case, framework, p) for p in plan["problems"] if p["kind"] == "wrong"]
            problems += [{"case": case.key, **p} for p in plan["problems"]]
        for worker in self._ready(plans):
            worker.call("release", timeout=60)
        entry = {"key": case.key, "clock": _clock(clocks), "blocks": self._settings.blocks}
        return rows, entry | ({"chosen": True} if self._chooses else {}), problems

    def _shares(self, results: Results) -> None:
        """The MLP's share of a transformer block, once a file, where the cases of the claims were measured."""
        wanted = any(c.workload == "article" and c.cache == "hot" for c in self._cases)
        first = self._workers[0]
        if results.shares or not wanted or self._left() < 20 or self._hello[first.name]["framework"] != "torch":
            return
        try:
            results.shares = first.call("share", timeout=self._limit(MEASURE_S))["shares"]
        except WorkerError as error:
            results.problems.append(_failure("", "share", str(error)))
        results.save()

    def _prepare(self, worker: Worker, case: Case, reference: str, layers: int, problems: list[dict]) -> dict | None:
        """The worker's answer; a contender that breaks the worker is left out of the next try."""
        hello = self._hello[worker.name]
        names = [
            c["name"]
            for c in hello["contenders"]
            if not c["absent"] and (case.heavy or not c["heavy"]) and self._chosen(c["name"])
        ]
        if not names and worker is not self._workers[0]:
            return None
        extra = {} if hello["framework"] == "torch" else {"layers": layers}
        skip: list[str] = []
        for _ in range(3):
            try:
                if not worker.alive:
                    worker.start()
                return worker.call(
                    "prepare",
                    timeout=self._limit(HEAVY_PREPARE_S if case.heavy else PREPARE_S),
                    case=asdict(case),
                    contenders=names,
                    skip=skip,
                    reference=reference,
                    **extra,
                )
            except WorkerError as error:
                problems.append(_failure(case.key, error.during, str(error)))
                if self._left() <= 0:
                    break
                if "|" not in error.during and not error.fatal:
                    break
                skip.append(error.during)
        return None

    def _afterwards(
        self, case: Case, plans: dict[str, dict], problems: list[dict]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Traces and power; a profiler that fails costs a column, not the row group."""
        traces: dict[str, Any] = {}
        powers: dict[str, Any] = {}
        seconds = POWER_S if self._settings.device == "cuda" else 0.02
        for worker in self._ready(plans):
            for name, into, extra in (("trace", traces, {}), ("power", powers, {"seconds": seconds})):
                if name == "power" and not case.power:
                    continue
                try:
                    into |= worker.call(name, timeout=self._limit(MEASURE_S), **extra)
                except WorkerError as error:
                    problems.append(_failure(case.key, error.during, f"{name} in {worker.name}: {error}"))
        return traces, powers

    def _ready(self, plans: dict[str, dict]) -> list[Worker]:
        return [w for w in self._workers if w.name in plans and w.alive]

    def _chosen(self, contender: str) -> bool:
        return not self._words or any(w in contender for w in self._words)

    def _left(self) -> float:
        return self._settings.budget - (time.monotonic() - self._start)

    def _limit(self, seconds: float) -> float:
        return max(1.0, min(seconds, self._left() + 5))

    def _expected(self, case: Case) -> float:
        """How long the case will take, going by the last ones of its kind."""
        took = self._took[case.heavy][-3:]
        return max(took) if took else (60.0 if case.heavy else 10.0) if self._settings.device == "cuda" else 0.1


def choose(settings: Settings) -> tuple[list[Case], tuple[str, ...]]:
    """The cases that ``only`` leaves, and the words that choose contenders instead. Raises Unfit if none is left, or if
    no case has a word with a slash, which no contender has either."""
    cases = list(settings.cases)
    words = [w for w in settings.only if any(w in c.key for c in cases)]
    strange = [w for w in settings.only if "/" in w and w not in words]
    if strange:
        raise Unfit(f"no case has {', '.join(strange)} in its name")
    if words:
        cases = [c for c in cases if any(w in c.key for w in words)]
    if not cases:
        raise Unfit("no case is left to measure")
    return cases, tuple(w for w in settings.only if w not in words)


def workers(settings: Settings) -> list[Worker]:
    """One for torch, one a set of XLA flags for JAX."""
    device, found = settings.device, []
    if "torch" in settings.frameworks:
        module = "bench.worker_fake" if device == "fake" else "bench.worker_torch"
        arguments = ["--framework", "torch"] if device == "fake" else ["--device", device]
        # Tiny layers on threads that wait for each other measure the machine's other users.
        found.append(Worker("torch", module, arguments, {"OMP_NUM_THREADS": "1"} if device == "cpu" else {}))
    if "jax" in settings.frameworks:
        for variant in settings.variants:
            module = "bench.worker_fake" if device == "fake" else "bench.worker_jax"
            arguments = ["--framework", "jax"] if device == "fake" else ["--device", device]
            flags = f"{os.environ.get('XLA_FLAGS', '')} {VARIANTS[variant]}".strip()
            # Preallocated, JAX would hold three quarters of the memory that the workers share.
            settled = {"XLA_FLAGS": flags, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
            if device == "cpu":
                settled["JAX_PLATFORMS"] = "cpu"
            name = f"jax_{variant}" if variant else "jax"
            found.append(Worker(name, module, [*arguments, "--variant", variant], settled))
    return found


def _failure(case: str, during: str, reason: str) -> dict[str, str]:
    contender, _, plan = during.partition("|")
    return {"case": case, "contender": contender, "plan": plan, "reason": reason, "kind": "failed"}


def _median(blocks: list[list[float]]) -> float:
    flat = sorted(s for b in blocks for s in b)
    return round(flat[len(flat) // 2], 4)


def _clock(readings: list[dict | None]) -> dict | None:
    """The medians over a case's blocks; the lowest clock of all."""
    kept = [r for r in readings if r]
    if not kept:
        return None
    middle = {k: sorted(r[k] for r in kept)[len(kept) // 2] for k in kept[0]}
    return middle | {"sm_mhz_low": min(r["sm_mhz_low"] for r in kept)}

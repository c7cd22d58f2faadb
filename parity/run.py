"""The run: a case's inputs to both workers, their results to the judge; whatever goes wrong, the next case follows."""

import queue
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import stimulus
from .cases import Case
from .contract.plan import LIBRARY, Backend, Plan
from .contract.problem import Device
from .contract.tolerance import Arithmetic
from .inject import place
from .judge import FUSED, Pair, judge, prepare
from .oracle import Stages
from .process import Spec, Worker, WorkerError
from .protocol import Request, blobs_from_dict, plan_from_dict
from .session import Session

PASSED, FAILED, ERROR, SKIPPED = "passed", "failed", "error", "skipped"
# One case's limit: a hundred times what the slowest one takes on two cores.
CASE_SECONDS = 120.0
# Up to how many hidden features a red case's stages are asked apart at once: the identity of more takes minutes.
PLACED_FEATURES = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one case. ``reason``: why it is not "passed"; ``stimulus``: sha256 of each array that was fed."""

    case: Case
    status: str
    reason: str = ""
    plan: str | None = None
    stimulus: dict[str, str] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Where:
    """The machine of a run: ``device`` decides what is skipped and which bounds hold, ``workers`` how it is reached,
    ``jobs`` how many cases are under way at a time, each with workers of its own."""

    device: Device
    workers: Sequence[Spec]
    case_seconds: float = CASE_SECONDS
    jobs: int = 1

    @property
    def arithmetic(self) -> Arithmetic:
        return "tensor" if self.device.kind == "gpu" else "ieee"

    @property
    def twins_equal(self) -> bool:
        """On a GPU both twins' kernels are the same arithmetic to the bit; the interpreters leave GEMMs to each
        framework's own CPU library, whose order of summation differs."""
        return self.device.kind == "gpu"


def run(cases: Iterable[Case], where: Where, done: Callable[[Outcome], None]) -> dict[str, Any]:
    """Runs ``cases``, ``where.jobs`` at a time, and hands each Outcome to ``done`` as it comes, in this thread.

    Returns the workers' greetings (device, versions). Workers and temporary files are gone when it ends, also by an
    exception.
    """
    lanes = [[Worker(spec) for spec in where.workers] for _ in range(where.jobs)]
    free: queue.SimpleQueue[list[Worker]] = queue.SimpleQueue()
    for lane in lanes:
        free.put(lane)

    def one(case: Case) -> Outcome:
        lane = free.get()
        try:
            return _outcome(case, where, lane)
        finally:
            free.put(lane)

    pool = ThreadPoolExecutor(where.jobs)
    try:
        for outcome in as_completed([pool.submit(one, case) for case in cases]):
            done(outcome.result())
        return {worker.spec.name: worker.hello for worker in lanes[0]}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in (worker for lane in lanes for worker in lane):
            worker.close()
        pool.shutdown()


def _outcome(case: Case, where: Where, workers: list[Worker]) -> Outcome:
    started = time.monotonic()
    reason = case.skip_reason(where.device)
    if reason:
        return Outcome(case=case, status=SKIPPED, reason=reason)
    folder = Path(tempfile.mkdtemp(prefix="parity-"))
    fields: dict[str, Any]
    try:
        fields = _attempt(case, where, workers, folder)
    except Exception:
        fields = {"status": ERROR, "reason": traceback.format_exc()}
        for worker in workers:
            worker.close()  # its reply may still be on the way
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(case=case, seconds=time.monotonic() - started, **fields)


def _attempt(case: Case, where: Where, workers: list[Worker], folder: Path) -> dict[str, Any]:
    errors = []
    for worker in workers:
        try:
            worker.start()  # both come up at the same time
        except WorkerError as error:
            errors.append(str(error))
    if errors:
        return {"status": ERROR, "reason": "\n".join(errors)}
    arrays = stimulus.generate(case.problem, case.stimulus, case.seed)
    if case.gradients:
        arrays["dy"] = stimulus.upstream(case.problem, case.stimulus, case.seed)
    blobs = stimulus.save(arrays, folder)
    computes = case.stimulus != "special"
    request = Request(
        case=case.name,
        problem=case.problem,
        plan=case.plan,
        save=case.save,
        arrays=blobs,
        out=str(folder),
        run=computes,
    )
    asked = []
    for worker in workers:
        try:
            worker.send(request)
            asked.append(worker)
        except WorkerError as error:
            errors.append(str(error))
    reference = prepare(case, arrays) if computes else None
    replies = {}
    for worker in asked:
        try:
            replies[worker.spec.name] = worker.receive(where.case_seconds)
        except WorkerError as error:
            errors.append(str(error))
    fed: dict[str, Any] = {"stimulus": {name: blob.sha256 for name, blob in blobs.items()}}
    errors += [
        f"{runner} on the {name} worker: {text}"
        for name, reply in replies.items()
        for runner, text in reply["errors"].items()
    ]
    if errors:
        return fed | {"status": ERROR, "reason": "\n".join(errors)}
    lost = [
        f"{array} arrived in {name} with other bytes than were sent"
        for name, reply in replies.items()
        for array, blob in blobs.items()
        if reply["arrived"].get(array) != blob.sha256
    ]
    if lost:
        return fed | {"status": FAILED, "reason": "; ".join(lost)}
    if reference is None:
        return fed | {"status": PASSED}
    plans = [plan_from_dict(reply["plan"]) for reply in replies.values()]
    fed["plan"] = " and ".join(dict.fromkeys(map(str, plans)))
    if len({_agreed(plan, case.plan) for plan in plans}) > 1:
        return fed | {"status": FAILED, "reason": f"the twins ran different plans: {fed['plan']}"}
    if LIBRARY in plans:
        return fed | {"status": FAILED, "reason": "the twins ran the library plan: no kernel was compared"}
    results = {runner: _load(stages) for reply in replies.values() for runner, stages in reply["runners"].items()}
    pairs = judge(case, reference, results, where.arithmetic, twins_equal=where.twins_equal)
    missing = [runner for runner in FUSED if runner not in results]
    red = [pair for pair in pairs if pair.red]
    if missing:
        return fed | {"status": ERROR, "reason": f"no result of {', '.join(missing)}", "pairs": pairs}
    if not red:
        return fed | {"status": PASSED, "pairs": pairs}
    reason = f"{len(red)} of {len(pairs)} comparisons are below what the case demands"
    return fed | {"status": FAILED, "reason": reason + _placed(case, where, workers, arrays, red), "pairs": pairs}


def _agreed(plan: Plan, asked: Plan) -> Plan:
    """What both twins must have of ``plan``: all, but the tiles that the plan ``asked`` for leaves open on the hopper
    backend. They change no bit, and each twin's compiler is fast with others."""
    if plan.backend is not Backend.HOPPER:
        return plan
    return replace(plan, up=asked.up and plan.up, down=asked.down and plan.down)


def _placed(case: Case, where: Where, workers: list[Worker], arrays: dict[str, Any], red: list[Pair]) -> str:
    """In which stage of the forward the fused runners' fault is; empty where it is none of theirs."""
    ours = any(pair.stage in ("s", "u", "h", "y") and {pair.a, pair.b} & {*FUSED} for pair in red)
    if not ours or case.problem.hidden_features > PLACED_FEATURES:
        return ""
    try:
        with Session((), where.case_seconds, lent=workers) as session:
            return f"; {place(case, arrays, session, where.arithmetic, equal=where.twins_equal)}"
    except RuntimeError as error:
        return f"; not placed: {error}"


def _load(stages: dict[str, Any]) -> Stages:
    return {stage: stimulus.load(blob) for stage, blob in blobs_from_dict(stages).items()}

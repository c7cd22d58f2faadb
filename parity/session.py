"""Both workers at hand: one question at a time, put to every runner or to a few, and their stages as arrays."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from . import stimulus
from .contract.plan import Plan
from .contract.problem import Problem
from .oracle import Stages
from .order import RUNNERS
from .process import Spec, Worker, WorkerError
from .protocol import Request, blobs_from_dict

SECONDS = 180.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Each runner's stages, of its last run, and the sha256 of each stage in every run; or, in a line, why it has
    none."""

    stages: dict[str, Stages] = field(default_factory=dict)
    hashes: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


class Session:
    """A context: the workers come up at the first question, and are gone with their files when it is left; those that
    are ``lent`` stay. A worker may take so many ``seconds`` for a question."""

    def __init__(self, workers: Iterable[Spec], seconds: float = SECONDS, *, lent: Iterable[Worker] = ()) -> None:
        self.lent = list(lent)
        self.workers = self.lent or [Worker(spec) for spec in workers]
        self.seconds = seconds
        self.folder = Path(tempfile.mkdtemp(prefix="parity-"))

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self.lent:
            self.restart()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def greetings(self) -> dict[str, object]:
        """Each worker's device and versions."""
        return {worker.spec.name: worker.hello for worker in self.workers}

    def restart(self) -> None:
        """Ends the processes: the next question is put to fresh ones."""
        for worker in self.workers:
            worker.close()

    def ask(
        self,
        problem: Problem,
        arrays: Mapping[str, np.ndarray],
        plan: Plan | None,
        runners: Sequence[str] = tuple(RUNNERS),
        *,
        save: str = "preact",
        repeats: int = 1,
    ) -> Answer:
        """What ``runners`` make of ``arrays``, so often; "dy" among them: the backward too. A worker that dies is an
        error of each of its runners."""
        request = Request(
            case="session",
            problem=problem,
            plan=plan,
            save=save,
            arrays=stimulus.save(dict(arrays), self.folder),
            out=str(self.folder),
            runners=tuple(runners),
            repeats=repeats,
        )
        names = {RUNNERS[runner] for runner in runners}
        workers = [worker for worker in self.workers if worker.spec.name in names]
        answer = Answer()

        def step(worker: Worker, what: Callable[[], Any]) -> Any:
            try:
                return what()
            except WorkerError as error:
                worker.close()  # its reply may still be on the way
                lines = str(error).splitlines()
                lives = [runner for runner in runners if RUNNERS[runner] == worker.spec.name]
                answer.errors.update(dict.fromkeys(lives, " ".join(dict.fromkeys((lines[0], lines[-1])))))
                workers.remove(worker)

        for worker in list(workers):
            step(worker, worker.start)  # both come up at the same time
        for worker in list(workers):
            step(worker, partial(worker.send, request))
        for worker in list(workers):
            reply = step(worker, partial(worker.receive, self.seconds))
            for runner in (name for name in runners if reply and RUNNERS[name] == worker.spec.name):
                if runner in reply["runners"]:
                    found = blobs_from_dict(reply["runners"][runner])
                    answer.stages[runner] = {stage: stimulus.load(blob) for stage, blob in found.items()}
                    answer.hashes[runner] = reply["repeats"][runner]
                else:
                    why = reply["errors"].get(runner) or next(iter(reply["errors"].values()), "no such runner")
                    answer.errors[runner] = why.strip().splitlines()[-1]
        return answer

"""Both workers at hand: one question at a time, put to every runner or to a few, and their stages as arrays."""

import shutil
import tempfile
import threading
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
from .process import Message, Spec, Worker, WorkerError
from .protocol import Blob, Request, blobs_from_dict, plan_from_dict

# Each runner, and the framework whose worker it lives in.
RUNNERS = {"jaxfused": "jax", "xla": "jax", "torchfused": "torch", "eager": "torch"}
SECONDS = 180.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Each runner's stages, of its last run, and the sha256 of each stage in every run; or, in a line, why it has
    none. ``plan``: what the fused runners took."""

    stages: dict[str, Stages] = field(default_factory=dict)
    hashes: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    plan: str = ""


class Session:
    """A context: the workers come up at the first question, and are gone with their files when it is left; those that
    are ``lent`` stay. A worker may take so many ``seconds`` for a question. Threads may ask; they take turns."""

    def __init__(self, workers: Iterable[Spec], seconds: float = SECONDS, *, lent: Iterable[Worker] = ()) -> None:
        self.lent = list(lent)
        self.workers = self.lent or [Worker(spec) for spec in workers]
        self.seconds = seconds
        self.folder = Path(tempfile.mkdtemp(prefix="parity-"))
        self._turn = threading.Lock()
        self._written: dict[str, tuple[np.ndarray, Blob]] = {}

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
        say: Callable[[Request], Message] = lambda request: request,
        in_turns: bool = False,
    ) -> Answer:
        """What ``runners`` make of ``arrays``, so often; "dy" among them: the backward too. A worker that dies is an
        error of each of its runners. ``say``: the message that carries the question; ``in_turns``: as ``send`` has it.

        An array is written when it is first asked with, and cannot be changed from then on.
        """
        with self._turn:
            request = Request(
                case="session",
                problem=problem,
                plan=plan,
                save=save,
                arrays=self._blobs(arrays),
                out=str(self.folder),
                runners=tuple(runners),
                repeats=repeats,
            )
            replies, dead = self.send(
                say(request), list(dict.fromkeys(RUNNERS[runner] for runner in runners)), in_turns=in_turns
            )
            plans = [plan_from_dict(reply["plan"]) for reply in replies.values() if reply["plan"]]
            answer = Answer(plan=" and ".join(dict.fromkeys(map(str, plans))))
            for runner in runners:
                reply = replies.get(RUNNERS[runner])
                if reply is None:
                    answer.errors[runner] = dead[RUNNERS[runner]]
                elif runner in reply["runners"]:
                    found = blobs_from_dict(reply["runners"][runner])
                    answer.stages[runner] = {stage: stimulus.load(blob) for stage, blob in found.items()}
                    answer.hashes[runner] = reply["repeats"][runner]
                else:
                    why = reply["errors"].get(runner) or next(iter(reply["errors"].values()), "no such runner")
                    answer.errors[runner] = why.strip().splitlines()[-1]
            return answer

    def send(
        self, message: Message, frameworks: Iterable[str], *, in_turns: bool = False
    ) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """The replies of the workers of ``frameworks``, and of those that died why, in a line. All are at work at the
        same time, unless ``in_turns``: then, in the order given, each is told when the one before has answered."""
        replies: dict[str, dict[str, Any]] = {}
        dead: dict[str, str] = {}

        def step(worker: Worker, what: Callable[[], Any]) -> Any:
            if worker.spec.name in dead:
                return None
            try:
                return what()
            except WorkerError as error:
                worker.close()  # its reply may still be on the way
                lines = str(error).splitlines()
                dead[worker.spec.name] = " ".join(dict.fromkeys((lines[0], lines[-1])))

        workers = [worker for name in frameworks for worker in self.workers if worker.spec.name == name]
        for worker in workers:
            step(worker, worker.start)  # all come up at the same time
        for some in [[worker] for worker in workers] if in_turns else [workers]:
            for worker in some:
                step(worker, partial(worker.send, message))
            for worker in some:
                reply = step(worker, partial(worker.receive, self.seconds))
                if reply is not None:
                    replies[worker.spec.name] = reply
        return replies, dead

    def _blobs(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Blob]:
        for name, array in arrays.items():
            if name not in self._written or self._written[name][0] is not array:
                self._written[name] = array, stimulus.save({name: array}, self.folder)[name]
                array.setflags(write=False)
        return {name: self._written[name][1] for name in arrays}

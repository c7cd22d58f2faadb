"""The workers as one function: a problem, a plan and arrays in, every runner's stages out."""

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import stimulus
from .contract.plan import Plan
from .contract.problem import Problem
from .oracle import Stages
from .process import Spec, Worker, WorkerError
from .protocol import Request, blobs_from_dict

SECONDS = 300.0
FRAMEWORKS = {"jaxfused": "jax", "xla": "jax", "torchfused": "torch", "eager": "torch"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """By runner: the stages of its last run, the sha256 of each stage in every run, or why there are none. ``plan`` is
    what the fused runners took, by framework."""

    stages: dict[str, Stages] = field(default_factory=dict)
    hashes: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    plan: dict[str, str] = field(default_factory=dict)


class Ask:
    """The worker processes of ``specs``, asked side by side; a context that ends them and their files.

    ``ask(...)`` raises WorkerError if one crashes, hangs or does not start; it may be asked again.
    """

    def __init__(
        self, specs: Iterable[Spec], seconds: float = SECONDS, workers: Iterable[Worker] | None = None
    ) -> None:
        self.workers = list(workers) if workers is not None else [Worker(spec) for spec in specs]
        self.seconds = seconds
        self._lent = workers is not None
        self._folder = Path(tempfile.mkdtemp(prefix="parity-ask-"))

    def __enter__(self) -> "Ask":
        return self

    def __exit__(self, *_: Any) -> None:
        if not self._lent:
            self.restart()
        shutil.rmtree(self._folder, ignore_errors=True)

    def restart(self) -> None:
        """Ends the processes; the next question is put to fresh ones."""
        for worker in self.workers:
            worker.close()

    def __call__(
        self,
        problem: Problem,
        plan: Plan | None,
        arrays: Mapping[str, np.ndarray],
        *,
        runners: Iterable[str] = (),
        repeats: int = 1,
        save: str = "preact",
        what: str = "asked",
    ) -> Answer:
        """What each of ``runners`` (all, if none is named) makes of ``arrays``; "dy" among them: the backward too."""
        wanted = tuple(runners)
        # A runner that FRAMEWORKS does not know may be any worker's.
        asked = [
            worker
            for worker in self.workers
            if not wanted or any(FRAMEWORKS.get(name, worker.spec.name) == worker.spec.name for name in wanted)
        ]
        for worker in asked:
            worker.start()  # all come up at the same time
        request = Request(
            case=what,
            problem=problem,
            plan=plan,
            save=save,
            arrays=stimulus.save(dict(arrays), self._folder),
            out=str(self._folder),
            runners=wanted,
            repeats=repeats,
        )
        sent: list[Worker] = []
        try:
            for worker in asked:
                worker.send(request)
                sent.append(worker)
            replies = {worker.spec.name: worker.receive(self.seconds) for worker in asked}
        except WorkerError:
            for worker in sent:
                worker.close()  # its reply may still be on the way
            raise
        answer = Answer(plan={name: reply["plan"] for name, reply in replies.items() if reply["plan"]})
        for reply in replies.values():
            answer.errors.update(reply["errors"])
            answer.hashes.update(reply["repeats"])
            for runner, stages in reply["runners"].items():
                answer.stages[runner] = {s: stimulus.load(blob) for s, blob in blobs_from_dict(stages).items()}
        return answer

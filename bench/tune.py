"""Measures tilings of strategy tiled, backend hopper, into the table that a twin's launches look up.

One worker holds the GPU, and the file is whole after every launch that was measured.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from parity.contract.hopper_tiles import Tiling, Work, backward_of, candidates, forward_of, modelled
from parity.contract.problem import Device

from . import environment, tiles
from .protocol import Worker, WorkerError
from .run import Unfit
from .workloads import MODES, Case, suite, workloads

START_S, COMPILE_S, WARM_S, MEASURE_S = 90.0, 300.0, 30.0, 60.0
# The part of the time left that compiling may take; what is not compiled then is when it is measured.
COMPILING = 0.5
# By the device's library. torch's binaries serve all sizes; Mosaic compiles each tiling of each launch, so only those
# are tried of tiles that the model thinks take at most so many times as long as its own.
SLACK = {"torch": math.inf, "xla": 1.25}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """``framework``: torch or jax, whose twin launches. ``budget``: seconds after which no launch is begun.
    ``missing``: only what the file lacks of this GPU."""

    device: str
    framework: str
    cases: tuple[Case, ...]
    path: Path
    budget: float = float("inf")
    missing: bool = False
    commit: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One launch to be measured, as the first of the cases that has it makes it, and the tilings to try."""

    work: Work
    activation: str
    biases: bool
    tilings: tuple[Tiling, ...]

    def to_json(self) -> dict:
        return {
            "work": asdict(self.work),
            "activation": self.activation,
            "biases": self.biases,
            "tilings": list(map(str, self.tilings)),
        }

    @classmethod
    def from_json(cls, fields: dict) -> "Trial":
        tilings = tuple(map(Tiling.parse, fields["tilings"]))
        return cls(**{**fields, "work": Work(**fields["work"]), "tilings": tilings})


def cases_of(texts: Iterable[str]) -> list[Case]:
    """``llama3_8b/4096``, a workload and its rows: first the forward passes, then with their gradients. The suite
    "tune" where there are none. Raises Unfit for another text or an unknown workload."""
    found = []
    for text in texts:
        name, _, rows = text.partition("/")
        if name not in workloads() or not rows.isdecimal() or not int(rows):
            known = ", ".join(workloads())
            raise Unfit(f"case is {text!r}, must be a workload and its rows, such as llama3_8b/4096; of {known}")
        found.append(Case(workload=name, m=int(rows)))
    return [replace(case, mode=mode) for mode in MODES for case in found] or suite("tune")


def trials(cases: Iterable[Case], device: Device) -> list[Trial]:
    """The launches of the cases' forward passes and, where a case says so, of their gradients: in order, each once,
    whichever workload it comes from."""
    found: dict[Work, Trial] = {}
    for case in cases:
        problem = case.problem
        backward = backward_of(problem, device.library) if case.mode != "forward" else ()
        for work in (*forward_of(problem), *backward):
            trial = Trial(
                work=work,
                activation=problem.activation if work.kind in ("activated", "hidden_bwd") else "identity",
                biases=problem.bias_up and work.kind in ("linear", "activated"),
                tilings=tuple(candidates(work, device, SLACK[device.library])),
            )
            found.setdefault(work, trial)
    return list(found.values())


class Tune:
    """One run over the settings' cases."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._end = time.monotonic() + settings.budget
        fake = settings.device == "fake"
        module, arguments = ("fake", [settings.framework]) if fake else (settings.framework, [])
        self._worker = Worker("the tuner", f"bench.tuner_{module}", arguments, {})

    def __call__(self) -> int:
        """How many launches could not be measured. Raises Unfit where none can be."""
        try:
            table = tiles.load(self._settings.path)
        except ValueError as error:
            raise Unfit(str(error)) from None
        self._say("starting")
        self._worker.start()
        try:
            return self._run(table)
        except WorkerError as error:
            raise Unfit(f"no worker could start: {error}") from None
        finally:
            self._worker.kill()

    def _run(self, table: tiles.TileFile) -> int:
        hello = self._worker.call("hello", timeout=self._limit(START_S))
        device = Device(**{**hello["device"], "capability": tuple(hello["device"]["capability"])})
        if device.capability != (9, 0):
            major, minor = device.capability
            raise Unfit(f"the hopper backend needs compute capability 9.0, {device.name} has {major}.{minor}")
        todo = trials(self._settings.cases, device)
        if self._settings.missing:
            todo = [trial for trial in todo if trial.work not in table.known(device)]
        about = environment.describe(self._settings.device, hello["versions"], self._settings.commit)
        about = {name: about[name] for name in ("date", "driver", "versions", "commit")}
        date = about.pop("date")
        compiling = min(COMPILE_S, COMPILING * self._left())
        self._prepare("compile", compiling + WARM_S, trials=[trial.to_json() for trial in todo], seconds=compiling)
        self._prepare("warm", WARM_S)
        failed, slowest = 0, 0.0
        for i, trial in enumerate(todo):
            place = f"[{i + 1}/{len(todo)}] {trial.work}"
            if self._left() <= slowest:
                self._say(f"{place}: the time is used up")
                break
            began = time.monotonic()
            try:
                if not self._worker.alive:
                    self._worker.start()
                limit = self._limit(MEASURE_S)
                found = self._worker.call("measure", timeout=limit, trial=trial.to_json())["us"]
            except WorkerError as error:
                failed += self._left() > 0
                self._say(f"{place}: {error.during} {error}")
                continue
            slowest = max(slowest, time.monotonic() - began)
            us = {Tiling.parse(text): value for text, value in found.items()}
            table.merge(device, date, about, trial.work, us)
            table.save()
            best, model = min(us, key=us.__getitem__), modelled(trial.work, device)
            self._say(f"{place}: {best} {us[best]:.1f} us; the model's {model} {us[model]:.1f} us")
        return failed

    def _prepare(self, operation: str, limit: float, **arguments: Any) -> None:
        """What makes measuring quick and steady; launches are measured without it too."""
        try:
            answer = self._worker.call(operation, timeout=self._limit(limit), **arguments)
            error = answer.pop("error", "")
            counts = ", ".join(f"{value:g} {name}" for name, value in answer.items())
            self._say(f"{operation}: {counts}{error and f'; {error}'}")
        except WorkerError as error:
            self._say(f"{operation}: {error}")

    def _left(self) -> float:
        return self._end - time.monotonic()

    def _limit(self, seconds: float) -> float:
        return max(1.0, min(seconds, self._left() + 5))

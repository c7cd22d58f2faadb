"""What the controller and a worker say to each other: one JSON object a line, arrays as raw bytes in files.

A worker greets with its device and versions, then answers each request. Nothing here knows a framework.
"""

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from .contract.plan import Plan
from .contract.problem import Problem
from .contract.tiles import Tiles

# Text by which the frameworks report exhausted memory; the worker is not reused after it.
OUT_OF_MEMORY = ("out of memory", "RESOURCE_EXHAUSTED", "MemoryError")


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """An array in a file: its bytes in C order, little-endian, and their sha256."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str

    def read(self) -> bytes:
        """The bytes. Raises ValueError if their sha256 is another."""
        data = Path(self.path).read_bytes()
        if digest(data) != self.sha256:
            raise ValueError(f"{self.path} has sha256 {digest(data)}, must have {self.sha256}")
        return data


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One case: where its arrays are, where the stages go. ``run`` is false where only the round trip is asked;
    ``runners``: which ones are, all of the worker's if none is named; ``repeats``: how often, and the last run's stages
    are the ones stored."""

    case: str
    problem: Problem
    plan: Plan | None
    save: str
    arrays: dict[str, Blob]
    out: str
    run: bool = True
    runners: tuple[str, ...] = ()
    repeats: int = 1

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def options(self) -> dict[str, Any]:
        """What the twins' functions are told besides arrays and plan."""
        return {"activation": self.problem.activation, "precision": self.problem.precision}

    def gradient_stages(self, found: dict[str, Any]) -> dict[str, Any]:
        """What a twin's ``gradients`` gives, under names that the forward's stages do not have."""
        return {name if name.startswith("d_") else f"saved_{name}": value for name, value in found.items()}

    @classmethod
    def from_json(cls, line: str) -> "Request":
        fields = json.loads(line)
        fields["problem"] = Problem(**fields["problem"])
        fields["plan"] = plan_from_dict(fields["plan"]) if fields["plan"] else None
        fields["arrays"] = blobs_from_dict(fields["arrays"])
        fields["runners"] = tuple(fields["runners"])
        return cls(**fields)


class Framework(Protocol):
    """What a worker module provides: its framework's way to put, fetch, plan and run."""

    def hello(self) -> dict[str, Any]:
        """Device and versions. Raises RuntimeError if the device is not the one asked for."""
        ...

    def put(self, name: str, blob: Blob) -> Any:
        """The array on the device, in the framework's layout (weights transposed where that is the custom)."""
        ...

    def fetch(self, name: str, array: Any) -> tuple[bytes, str, tuple[int, ...]]:
        """Bytes, dtype and shape of a device array, in the canonical layout."""
        ...

    def plan(self, arrays: dict[str, Any], problem: Problem, plan: Plan | None) -> Plan:
        """The plan that the fused runner takes."""
        ...

    @property
    def runners(self) -> Mapping[str, Callable[["Request", dict[str, Any]], dict[str, Any]]]:
        """Name -> (request, arrays) -> stages; those of the backward too where "dy" is among the arrays."""
        ...


def serve(make: Callable[[], Any], reply: Callable[[Any, str], dict[str, Any]] | None = None) -> None:
    """Answers lines from stdin until it closes. ``make`` imports the framework: after stdout has been guarded.
    ``reply``: what is said to (framework, line); left out, the answer to the request that the line is."""
    stream = _claim_stdout()
    framework = make()
    _send(stream, framework.hello())
    for line in sys.stdin:
        _send(stream, reply(framework, line) if reply else answer(framework, Request.from_json(line)))


def answer(framework: Framework, request: Request) -> dict[str, Any]:
    """The reply to one request: ``arrived`` (the sha256 after the round trip), the fused runner's ``plan``, each
    runner's stages or error, ``repeats``: the sha256 of every stage, run by run. ``spent``: this worker should not be
    used again.
    """
    reply: dict[str, Any] = {
        "case": request.case, "arrived": {}, "plan": None, "runners": {}, "repeats": {}, "errors": {}, "spent": False
    }  # fmt: skip
    try:
        arrays = {name: framework.put(name, blob) for name, blob in request.arrays.items()}
        reply["arrived"] = {name: digest(framework.fetch(name, array)[0]) for name, array in arrays.items()}
    except Exception:
        return reply | {"errors": {"stimulus": traceback.format_exc()}, "spent": True}
    forward = {name: array for name, array in arrays.items() if name != "dy"}
    for runner, compute in framework.runners.items() if request.run else ():
        if request.runners and runner not in request.runners:
            continue
        try:
            reply["plan"] = reply["plan"] or asdict(framework.plan(forward, request.problem, request.plan))
            hashes: dict[str, list[str]] = {}
            blobs: dict[str, dict[str, Any]] = {}
            for _ in range(request.repeats):
                for stage, tap in compute(request, dict(arrays)).items():
                    blob = _store(f"{runner}.{stage}", framework.fetch(stage, tap), Path(request.out))
                    hashes.setdefault(stage, []).append(blob.sha256)
                    blobs[stage] = asdict(blob)
            reply["runners"][runner], reply["repeats"][runner] = blobs, hashes
        except Exception:
            text = traceback.format_exc()
            reply["errors"][runner] = text
            reply["spent"] |= any(sign in text for sign in OUT_OF_MEMORY)
    return reply


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def blobs_from_dict(fields: dict[str, Any]) -> dict[str, Blob]:
    return {name: Blob(**blob | {"shape": tuple(blob["shape"])}) for name, blob in fields.items()}


def plan_from_dict(fields: dict[str, Any]) -> Plan:
    """The plan of ``asdict(plan)`` after JSON."""
    tiles: dict[str, Any] = {name: Tiles(**fields[name]) if fields[name] else None for name in ("up", "down")}
    rest: dict[str, Any] = {"split_k": fields["split_k"] and tuple(fields["split_k"])}
    return Plan(**fields | tiles | rest)


def _claim_stdout() -> TextIO:
    # Libraries, in Python or below it, may print: file descriptor 1 becomes stderr, the protocol keeps a private copy.
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


def _send(stream: TextIO, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def _store(name: str, tap: tuple[bytes, str, tuple[int, ...]], folder: Path) -> Blob:
    data, dtype, shape = tap
    path = folder / f"{name}.bin"
    path.write_bytes(data)
    return Blob(path=str(path), dtype=dtype, shape=shape, sha256=digest(data))

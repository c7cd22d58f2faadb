"""What both frameworks' latency workers do: check a case's results first, then time its programs in blocks.

A program is a chain of layers of different weights, each layer's y the next one's x, so that no layer finds its weights
in a cache: in torch a CUDA graph of it (on a CPU its calls one by one), in JAX one jitted function. Times are the
host's, over some passes issued back to back, the device waited for at both ends: the same clock in both frameworks.
"""

import gc
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from . import protocol
from .protocol import Request, answer

SAMPLE_SECONDS = 4e-3
SAMPLES = 5
REPEATS = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """Either a case to get ready (``request``, so many ``layers``) or, without one, a block of samples."""

    request: Request | None = None
    layers: int = 1
    reverse: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Ask":
        fields = json.loads(line)
        request = fields.pop("request")
        return cls(request=None if request is None else Request.from_json(json.dumps(request)), **fields)


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """``run`` issues one pass over ``layers``, ``wait`` until the device is done; ``repeats`` passes make a sample."""

    run: Callable[[], Any]
    wait: Callable[[Any], None]
    layers: int
    repeats: int = 1

    def seconds(self, repeats: int) -> float:
        """Of one pass, from so many back to back."""
        self.wait(self.run())
        start, out = time.perf_counter(), None
        for _ in range(repeats):
            out = self.run()
        self.wait(out)
        return max(1e-9, (time.perf_counter() - start) / repeats)

    def samples(self) -> list[float]:
        """Microseconds a layer."""
        return [round(1e6 * self.seconds(self.repeats) / self.layers, 4) for _ in range(SAMPLES)]


class Timed(protocol.Framework, Protocol):
    """A worker's framework that makes programs too."""

    def program(self, runner: str, request: Request, layers: int) -> Program:
        """The chain of so many layers, ready to run."""
        ...


class Latency:
    """The programs of the case at hand."""

    def __init__(self, framework: Timed) -> None:
        self.framework = framework
        self.programs: dict[str, Program] = {}

    def hello(self) -> dict[str, Any]:
        return self.framework.hello()

    def reply(self, ask: Ask) -> dict[str, Any]:
        if ask.request is None:
            return {"samples": self._block(ask.reverse), "spent": False}
        self.programs.clear()
        gc.collect()
        found = answer(self.framework, ask.request)
        for runner in found["runners"]:
            program = self.framework.program(runner, ask.request, ask.layers)
            program.seconds(2)
            repeats = round(SAMPLE_SECONDS / min(program.seconds(1) for _ in range(3)))
            self.programs[runner] = replace(program, repeats=max(1, min(REPEATS, repeats)))
        return found

    def _block(self, reverse: bool) -> Mapping[str, list[float]]:
        gc.collect()
        gc.disable()
        try:
            names = list(self.programs)
            return {name: self.programs[name].samples() for name in (reversed(names) if reverse else names)}
        finally:
            gc.enable()


def serve(make: Callable[[], Timed]) -> None:
    """A latency worker's main loop."""
    protocol.serve(lambda: Latency(make()), lambda latency, line: latency.reply(Ask.from_json(line)))

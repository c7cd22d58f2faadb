"""How the controller speaks to a worker: one JSON object a line over the worker's stdin and stdout.

A worker holds one framework; the controller none. Its answers are ``{"event": ...}`` lines while it works and one
``{"result": ...}`` or ``{"error": ...}`` line at the end. What it or its libraries print goes to stderr.
"""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol


class WorkerError(RuntimeError):
    """The worker answered with an error, died (``fatal``) or did not answer in time (``fatal``). ``during``: the last
    thing it said it was doing."""

    def __init__(self, message: str, *, fatal: bool, during: str = "") -> None:
        super().__init__(message)
        self.fatal = fatal
        self.during = during


class Handler(Protocol):
    """What a worker serves: one method an operation, keyword arguments from the message."""

    def hello(self) -> dict: ...
    def warm(self) -> dict: ...
    def prepare(
        self,
        *,
        case: dict,
        contenders: list[str],
        skip: list[str],
        reference: str,
        emit: Callable[[str], None],
    ) -> dict: ...
    def block(self, *, seed: int) -> dict: ...
    def trace(self, *, emit: Callable[[str], None]) -> dict: ...
    def power(self, *, seconds: float) -> dict: ...
    def release(self) -> dict: ...
    def share(self) -> dict: ...


class TunerHandler(Protocol):
    """What a tuner's worker serves (tune.py)."""

    def hello(self) -> dict: ...
    def warm(self) -> dict: ...
    def compile(self, *, trials: list[dict], seconds: float) -> dict: ...
    def measure(self, *, trial: dict, emit: Callable[[str], None]) -> dict: ...


def serve(make: Callable[[], Handler | TunerHandler]) -> None:
    """A worker's main loop. Exits after an error that leaves a GPU unusable, so that a fresh process takes over."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def say(message: dict) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    handler: Handler | TunerHandler | None = None
    for line in sys.stdin:
        request = json.loads(line)
        operation = request.pop("operation")
        if operation == "exit":
            return
        try:
            handler = handler or make()
            if operation in ("prepare", "trace", "measure"):
                request["emit"] = lambda doing: say({"event": doing})
            say({"result": getattr(handler, operation)(**request)})
        except Exception as error:
            traceback.print_exc()
            broken = is_sticky(error)
            say({"error": describe(error), "fatal": broken})
            if broken:
                os._exit(3)


def describe(error: BaseException) -> str:
    """One line that names the error; those inside, for a group."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(describe(e) for e in error.exceptions)[:300]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def is_sticky(error: BaseException) -> bool:
    """Whether the error leaves the process's CUDA context dead: everything after it would fail too."""
    signs = ("illegal memory access", "illegal instruction", "misaligned address", "device-side assert",
             "unspecified launch failure", "CUDA_ERROR_ILLEGAL", "CUDA_ERROR_LAUNCH_FAILED")  # fmt: skip
    return any(sign in str(error) for sign in signs)


class Worker:
    """The controller's end of one worker process."""

    def __init__(self, name: str, module: str, arguments: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self._command = [sys.executable, "-m", module, *arguments]
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[dict | None] = queue.Queue()
        self._log: Any = None

    def start(self) -> None:
        """Starts the process, a fresh one if there was one before."""
        self.kill()
        self._answers = queue.Queue()
        self._log = tempfile.TemporaryFile("w+")
        root = str(Path(__file__).parents[1])
        path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **self._environment},
            # An interrupt is the controller's to handle: it saves what is done and ends the workers itself.
            start_new_session=True,
        )
        threading.Thread(target=self._read, args=(self._process, self._answers), daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def call(self, operation: str, *, timeout: float, **arguments: Any) -> dict:
        """The worker's result. Raises WorkerError; after a fatal one the process is gone and may be started again."""
        if not self.alive:
            raise WorkerError(f"{self.name} is not running", fatal=True)
        assert self._process is not None
        assert self._process.stdin is not None
        during = ""
        try:
            self._process.stdin.write(json.dumps({"operation": operation, **arguments}) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._died(during) from None
        end = time.monotonic() + timeout
        while True:
            try:
                answer = self._answers.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                self.kill()
                raise WorkerError(f"no answer in {timeout:.0f} s", fatal=True, during=during) from None
            if answer is None:
                raise self._died(during)
            if "event" in answer:
                during = answer["event"]
            elif "error" in answer:
                if answer["fatal"]:
                    self.kill()
                raise WorkerError(answer["error"], fatal=answer["fatal"], during=during)
            else:
                return answer["result"]

    def kill(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _read(self, process: subprocess.Popen[str], answers: queue.Queue[dict | None]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answers.put(json.loads(line))
        answers.put(None)

    def _died(self, during: str) -> WorkerError:
        status = self._process.wait() if self._process else None
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        self.kill()
        last = lines[-1][:300] if lines else "nothing on stderr"
        return WorkerError(f"the process ended with status {status}: {last}", fatal=True, during=during)

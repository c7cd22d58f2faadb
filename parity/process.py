"""One worker process and its life: started, asked with a time limit, ended, started again after a crash or a hang."""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

STARTUP_SECONDS = 180.0
STDERR_TAIL = 2000
# Of an interpreted kernel XLA makes a program that takes far longer to compile than to run; with these emitters, new
# ones, twice as long.
QUICK_XLA = "--xla_cpu_use_fusion_emitters=false"
# A worker that cannot start this often in a row is given up: each attempt takes seconds.
START_ATTEMPTS = 2


class Message(Protocol):
    """What a worker is sent: one line of JSON."""

    def to_json(self) -> str: ...


class WorkerError(Exception):
    """A worker crashed, hung or would not start. The message ends with the tail of its stderr."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """How a framework's worker is started."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", self.module, *self.arguments]


def specs(device: Literal["gpu", "cpu"], kind: str = "worker") -> list[Spec]:
    """The two workers of a ``kind`` (``parity/<kind>_jax.py`` and ``_torch.py``). On the CPU both interpreters are on;
    on a GPU both are off, whatever the caller's shell says."""
    on = "1" if device == "cpu" else "0"
    interpret = {"TRITON_INTERPRET": on, "JAXFUSED_INTERPRET": on}
    hidden = {"JAX_PLATFORMS": "cuda"}
    if device == "cpu":
        flags = " ".join(filter(None, (os.environ.get("XLA_FLAGS"), QUICK_XLA)))
        hidden = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        # Both workers and the oracle share the cores: who waits for another thread must not keep one busy.
        hidden |= {"OMP_WAIT_POLICY": "PASSIVE"}
    # Both frameworks share the GPU: XLA must not take three quarters of its memory at the start.
    common = interpret | hidden | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return [
        Spec(name=name, module=f"parity.{kind}_{name}", arguments=(device,), environment=common)
        for name in ("jax", "torch")
    ]


def run_both(kind: str, device: Literal["gpu", "cpu"], arguments: Sequence[str], seconds: float) -> None:
    """Runs both frameworks' ``parity/<kind>_<framework>.py`` to their ends, side by side. Raises RuntimeError with a
    process' last words if it fails, or after so many ``seconds``."""
    started = []
    for spec in specs(device, kind):
        # Deterministic matrix products in torch need this before CUDA starts.
        environment = os.environ | spec.environment | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        pipe = subprocess.PIPE
        command = [*spec.command, *arguments]
        started.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True))
    for process in started:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            for every in started:
                every.kill()
            raise RuntimeError(f"{kind} took more than {seconds:.0f} s") from None
        if process.returncode:
            for every in started:
                every.kill()
            raise RuntimeError(f"a process of {kind} failed:\n{output[-STDERR_TAIL:]}")


class Worker:
    """A worker process that is there when asked: ``send`` a request, ``receive`` its reply."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.hello: dict[str, Any] = {}
        self.failed_starts = 0
        self.last_failure = ""
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Starts the process, unless it runs. The greeting is awaited by the first ``receive`` or ``greet``."""
        if self._process and self._process.poll() is None:
            return
        self.close()
        if self.failed_starts >= START_ATTEMPTS:
            raise WorkerError(self.last_failure)
        self._stderr = tempfile.NamedTemporaryFile(prefix=f"parity-{self.spec.name}-", suffix=".stderr")
        # A session of its own: an interrupt from the terminal is the controller's to handle.
        self._process = subprocess.Popen(
            self.spec.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=os.environ | self.spec.environment,
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_drain, args=(self._process, self._lines), daemon=True).start()
        self._greeted = False

    def greet(self) -> None:
        """Waits for the greeting. Raises WorkerError if the worker does not come up."""
        self.start()
        if self._greeted:
            return
        try:
            self.hello = self._next(STARTUP_SECONDS, "start")
        except WorkerError as error:
            self.failed_starts, self.last_failure = self.failed_starts + 1, str(error)
            raise
        self._greeted, self.failed_starts = True, 0

    def send(self, request: Message) -> None:
        """Hands the worker a request. Raises WorkerError if it cannot be started."""
        self.greet()
        stream = self._process and self._process.stdin
        assert stream
        try:
            stream.write(request.to_json() + "\n")
            stream.flush()
        except OSError:
            raise self._dead("would not take a request") from None

    def receive(self, seconds: float) -> dict[str, Any]:
        """The reply to the request sent before. Raises WorkerError on a crash, or after ``seconds``."""
        reply = self._next(seconds, "answer")
        if reply["spent"]:
            self.close()
        return reply

    def close(self) -> None:
        """Ends the process and all it has started."""
        if self._process is None:
            return
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream:
                stream.close()
        self._process = None

    def _next(self, seconds: float, what: str) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise self._dead(f"did not {what} within {seconds:.0f} s") from None
        if line is None:
            raise self._dead("ended")
        return json.loads(line)

    def _dead(self, what: str) -> WorkerError:
        assert self._process
        if what == "ended":
            code = self._process.wait()
            what = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        tail = Path(self._stderr.name).read_text(errors="replace")[-STDERR_TAIL:].strip()
        self.close()
        return WorkerError(f"the {self.spec.name} worker {what}; the end of its stderr:\n{tail or '(nothing)'}")


def _drain(process: subprocess.Popen[str], lines: "queue.Queue[str | None]") -> None:
    assert process.stdout
    try:
        for line in process.stdout:
            lines.put(line)
    except ValueError:  # closed while reading: the worker was ended on purpose
        pass
    lines.put(None)

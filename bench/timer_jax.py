"""The stopwatch on the JAX side.

Wall time: the host's clock over calls of one jitted program that holds the whole chain, waiting once at the end. Kernel
time and launches: CUPTI, through Mosaic GPU's profiler; where that fails, through jax.profiler's trace.
"""

import glob
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import jax

from .rounds import in_rounds, rounds

WALL_SAMPLE_S = 4e-3
TRACE_PASSES = 3
TRACE_RUNS = 3

Kernels = list[tuple[str, float]]


@dataclass
class Program:
    """One contender's chain as one jitted program and its arguments."""

    key: str
    function: Any
    arguments: tuple[Any, ...]
    layers: int
    seconds: float = 0.0

    def run(self) -> Any:
        return self.function(*self.arguments)

    def calibrate(self) -> None:
        """How long one call takes, in seconds, when several are under way."""
        for _ in range(2):
            jax.block_until_ready(self.run())
        self.seconds = self._wall(3)

    def wall_sample(self) -> float:
        """Host microseconds a layer."""
        jax.block_until_ready(self.run())
        return 1e6 * self._wall(max(3, min(200, round(WALL_SAMPLE_S / self.seconds)))) / self.layers

    def _wall(self, repeats: int) -> float:
        out = None
        start = time.perf_counter()
        for _ in range(repeats):
            out = self.run()
        jax.block_until_ready(out)
        return (time.perf_counter() - start) / repeats


def block(programs: list[Program], seed: int) -> dict[str, dict[str, list[float]]]:
    """One block of samples of every program, one each a round."""
    return {p.key: {"kernel": [], "wall": wall} for p, wall in in_rounds(programs, Program.wall_sample, seed)}


def trace(programs: list[Program], emit: Callable[[str], None]) -> dict[str, dict]:
    """Launches a layer and kernel microseconds a layer, and which profiler told (``method``)."""
    found: dict[str, dict] = {}
    for once in islice(rounds(programs, seed=0), TRACE_PASSES):
        for p in once:
            emit(p.key)
            method, runs = _runs(p)
            if not runs:
                continue
            entry = found.setdefault(p.key, {"kernel": [], "method": method})
            entry["kernel"] += [sum(us for _, us in run) / p.layers for run in runs]
            entry["launches"] = len(runs[0]) / p.layers
            entry["kernels"] = summary(runs[0])
    return found


def summary(kernels: Kernels) -> dict[str, list[float]]:
    """name -> [launches, microseconds], the longest first, eight at most."""
    total: dict[str, list[float]] = {}
    for name, us in kernels:
        entry = total.setdefault(name[:90], [0, 0.0])
        entry[0] += 1
        entry[1] = round(entry[1] + us, 3)
    return dict(sorted(total.items(), key=lambda item: -item[1][1])[:8])


def _runs(p: Program) -> tuple[str, list[Kernels]]:
    """The kernels of some runs, and the method; [] where neither profiler answers."""
    for method, measure in (("cupti", _cupti), ("cupti via jax.profiler", _profiler)):
        try:
            runs = measure(p)
        except Exception as error:
            print(f"{method} failed on {p.key}: {error!r}", flush=True)
            continue
        if runs and all(runs):
            return method, runs
    return "none", []


def _cupti(p: Program) -> list[Kernels]:
    from jax.experimental.mosaic.gpu import profiler

    measured = profiler.Cupti(finalize=True).measure(p.function, aggregate=False, iterations=TRACE_RUNS)
    _, runs = measured(*p.arguments)
    return [[(name, 1e3 * ms) for name, ms in run] for run in runs or []]


def _profiler(p: Program) -> list[Kernels]:
    with tempfile.TemporaryDirectory() as folder:
        jax.profiler.start_trace(folder)
        try:
            for _ in range(TRACE_RUNS):
                jax.block_until_ready(p.run())
        finally:
            jax.profiler.stop_trace()
        files = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        events = device_events(jax.profiler.ProfileData.from_file(files[0])) if files else []
    each, rest = divmod(len(events), TRACE_RUNS)
    if rest:
        raise RuntimeError(f"{len(events)} kernels in {TRACE_RUNS} equal runs")
    return [[(name, us) for _, us, name in events[i * each : (i + 1) * each]] for i in range(TRACE_RUNS)]


def device_events(data: Any) -> list[tuple[float, float, str]]:
    """(start, microseconds, name) of everything on the device's streams, by start time."""
    events = [
        (e.start_ns / 1e3, e.duration_ns / 1e3, e.name)
        for plane in data.planes
        if plane.name.startswith("/device:GPU")
        for line in plane.lines
        if line.name.startswith("Stream")
        for e in line.events
    ]
    return sorted(events)

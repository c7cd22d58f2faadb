"""The stopwatch on the torch side.

Device time: a CUDA graph of the whole chain, replayed back to back between two events. Wall time: the host's clock over
calls issued one by one, the device synchronised at the end. Launches and kernel times: CUPTI, through torch.profiler.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch._C._autograd import DeviceType

from .gpu import Gpu
from .rounds import in_rounds, rounds

KERNEL_SAMPLE_S = 1.5e-3
WALL_SAMPLE_S = 4e-3
# Holds the device while the host gets ahead, so that the first replay's launch is not in the sample: about 0.1 ms.
SPIN_CYCLES = 200_000
MARKER = "spin_kernel"
TRACE_PASSES = 8


@dataclass
class Program:
    """One contender's chain, ready to run. ``step`` issues it call by call, ``graph`` replays it."""

    key: str
    step: Callable[[], Any]
    layers: int
    device: torch.device
    graph: Any = None
    wall_of_graph: bool = False
    wanted: bool = True  # a contender; False for a roof, which needs no wall time and no power
    seconds: float = 0.0
    output: Any = field(default=None, repr=False)

    def capture(self) -> None:
        """Captures the chain, after three runs on the side stream that libraries need to settle in."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.output = self.step()
        self.graph = graph

    def run(self) -> None:
        """One pass over the chain, as it is timed."""
        if self.graph is not None:
            self.graph.replay()
        else:
            self.step()

    def calibrate(self) -> None:
        """How long one pass takes, in seconds."""
        for _ in range(3):
            self.run()
        self.seconds = min(self._timed(1) for _ in range(3))

    def kernel_sample(self) -> float | None:
        """Device microseconds a layer; None where only a profiler can tell (launched call by call)."""
        if self.device.type == "cuda" and self.graph is None:
            return None
        repeats = max(1, min(200, round(KERNEL_SAMPLE_S / self.seconds)))
        if repeats > 1:
            # What ran before has left L2 to itself: that of a hot case.
            self.run()
        return 1e6 * self._timed(repeats) / self.layers

    def wall_sample(self) -> float | None:
        """Host microseconds a layer; None for a roof."""
        if not self.wanted:
            return None
        call = self.run if self.wall_of_graph else self.step
        repeats = max(3, min(200, round(WALL_SAMPLE_S / max(self.seconds, 20e-6 * self.layers))))
        call()
        _synchronize(self.device)
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        _synchronize(self.device)
        return 1e6 * (time.perf_counter() - start) / (repeats * self.layers)

    def _timed(self, repeats: int) -> float:
        """Seconds of one pass, from ``repeats`` passes back to back."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            for _ in range(repeats):
                self.run()
            return max(1e-9, (time.perf_counter() - start) / repeats)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(SPIN_CYCLES)
        start.record()
        for _ in range(repeats):
            self.run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / repeats


def settle(device: torch.device, gpu: Gpu | None) -> float:
    """GEMMs until the SM clock moves by less than 1 % over half a second, five seconds at most; the seconds it took."""
    if device.type != "cuda":
        return 0.0
    a = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)
    start, last = time.monotonic(), 0.0
    while time.monotonic() - start < 5:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            for _ in range(20):
                torch.mm(a, a)
            torch.cuda.synchronize()
        clock = gpu.read().sm_mhz if gpu else 0.0
        if abs(clock - last) <= 0.01 * clock:
            break
        last = clock
    return time.monotonic() - start


def block(programs: list[Program], seed: int) -> dict[str, dict[str, list[float]]]:
    """One block of samples of every program, one each a round: device times, then wall times."""
    kernel = in_rounds(programs, Program.kernel_sample, seed)
    wall = in_rounds(programs, Program.wall_sample, seed)
    return {p.key: {"kernel": k, "wall": w} for (p, k), (_, w) in zip(kernel, wall, strict=True)}


def trace(programs: list[Program]) -> dict[str, dict]:
    """Launches a layer and kernel microseconds a layer of each program, from one profile of all of them: every pass is
    preceded by a marker kernel. Raises RuntimeError if the profile does not hold every marker."""
    from torch.profiler import ProfilerActivity, profile

    order = [p for once in islice(rounds(programs, seed=0), TRACE_PASSES) for p in once]
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for p in order:
            torch.cuda._sleep(SPIN_CYCLES)
            p.run()
        torch.cuda.synchronize()
    return fold(_device_events(profiler), [(p.key, p.layers) for p in order])


def fold(events: list[tuple[float, float, str]], order: list[tuple[str, int]]) -> dict[str, dict]:
    """``events``: (start, microseconds, name), sorted; ``order``: the (key, layers) of each pass. Passes are split at
    the marker kernels."""
    passes: list[list[tuple[str, float]]] = []
    for _, duration, name in events:
        if MARKER in name:
            passes.append([])
        elif passes:
            passes[-1].append((name, duration))
    if len(passes) != len(order):
        raise RuntimeError(f"the profile holds {len(passes)} markers, {len(order)} were launched")
    found: dict[str, dict] = {}
    for (key, layers), kernels in zip(order, passes, strict=True):
        entry = found.setdefault(key, {"launches": len(kernels) / layers, "kernel": [], "method": "cupti"})
        entry["kernel"].append(sum(d for _, d in kernels) / layers)
        entry["kernels"] = _summary(kernels)
    return found


def _summary(kernels: list[tuple[str, float]]) -> dict[str, list[float]]:
    """name -> [launches, microseconds] of one pass, the longest first, eight at most."""
    total: dict[str, list[float]] = {}
    for name, duration in kernels:
        entry = total.setdefault(name[:90], [0, 0.0])
        entry[0] += 1
        entry[1] = round(entry[1] + duration, 3)
    return dict(sorted(total.items(), key=lambda item: -item[1][1])[:8])


def _device_events(profiler: Any) -> list[tuple[float, float, str]]:
    """Everything that ran on the device: kernels, copies and memsets, by start time."""
    events = []
    for e in profiler.profiler.kineto_results.events():
        annotation = getattr(e, "is_user_annotation", bool)() or e.name().endswith(("Sync", "Synchronize"))
        if e.device_type() == DeviceType.CUDA and not annotation:
            events.append((e.start_ns() / 1e3, e.duration_ns() / 1e3, e.name()))
    return sorted(events)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()

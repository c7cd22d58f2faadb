"""From samples to one row of the results."""

from dataclasses import dataclass
from statistics import median
from typing import Any

from parity.statistics import Estimate, estimate

from .workloads import Case


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a worker said of one contender: its ready entry, its blocks of samples, its trace and its power."""

    framework: str
    entry: dict[str, Any]
    kernel: list[list[float]]
    wall: list[list[float]]
    trace: dict[str, Any]
    power: dict[str, Any]


def row(case: Case, m: Measured, roofs: dict[str, dict[str, float]], layers: int) -> dict[str, Any]:
    """The JSON row. ``kernel_us``: device time a layer, measured as ``kernel_method`` says; ``cupti_us``: kernel
    durations alone, without the gaps between them; ``wall_us``: host time a layer, launches included; ``peak_bytes``:
    the most memory one layer's training step holds beside its operands. ``roofs``: name -> {"replay": us, "cupti": us};
    a row's roofs are measured the way its own time is, so that gaps count in both or in neither."""
    wall = estimate(m.wall)
    kernel, method = _kernel(m, wall)
    how = "cupti" if method.startswith("cupti") else "replay"
    own = {name: times.get(how, times.get("replay")) for name, times in roofs.items()}
    roof = own.get(case.roof)
    traced = m.trace.get("kernel")
    return {
        "case": case.key,
        "workload": case.workload,
        "m": case.m,
        "dtype": case.dtype,
        "mode": case.mode,
        "cache": case.cache,
        "framework": m.framework,
        "contender": m.entry["contender"],
        "plan": m.entry["plan"],
        "detail": m.entry["detail"],
        "graphed": m.entry["graphed"],
        "kernel_us": kernel.as_json(),
        "kernel_method": method,
        "cupti_us": round(median(traced), 4) if traced else None,
        "wall_us": wall.as_json(),
        "samples": sum(map(len, m.kernel)) or sum(map(len, m.wall)),
        "layers": layers,
        "launches": m.trace.get("launches"),
        "kernels": m.trace.get("kernels", {}),
        "hbm_bytes": counted_bytes(case, m.entry),
        "peak_bytes": m.entry.get("peak_bytes"),
        "power_w": m.power.get("power_w"),
        "joules": m.power.get("joules"),
        "stream_us": own.get("stream"),
        "copy_us": own.get("copy"),
        "gemm_us": own.get("gemm"),
        "roof": case.roof,
        "roof_fraction": round(roof / kernel.median, 4) if roof else None,
        "correct": True,
        "error": m.entry["error"],
        "tolerance": m.entry["tolerance"],
    }


def wrong_row(case: Case, framework: str, problem: dict[str, Any]) -> dict[str, Any]:
    """A contender whose result was wrong: reported, not timed."""
    kept = {k: problem.get(k) for k in ("contender", "plan", "error", "tolerance")}
    blank = dict.fromkeys(("kernel_us", "wall_us", "launches", "hbm_bytes", "power_w", "stream_us", "gemm_us"))
    place = {"case": case.key, "workload": case.workload, "m": case.m, "dtype": case.dtype, "mode": case.mode}
    return {
        **place,
        "cache": case.cache,
        "framework": framework,
        **kept,
        "graphed": None,
        **blank,
        "correct": False,
    }


def counted_bytes(case: Case, entry: dict[str, Any]) -> dict[str, Any] | None:
    """Device-memory traffic of a forward pass, counted from the formula: None for a backward pass."""
    if case.mode != "forward":
        return None
    p, fusion = case.problem, entry["fusion"]
    plan = entry["detail"] or entry["plan"]
    if "library" in plan:
        fusion = "none"
    elif plan.startswith(("decode", "onchip")):
        fusion = "full"
    x, y = (p.m * f * p.io_bytes // (p.m * (p.in_features + p.out_features)) for f in (p.in_features, p.out_features))
    # Unfused, every pre-activation is written and read; a gated one writes and reads act(gate) too.
    between = {"full": 0, "epilogue": 1, "none": 4 if p.gated else 2}[fusion] * p.hidden_bytes
    return {"read": p.weight_bytes + x + between, "write": y + between, "method": "counted"}


def _kernel(m: Measured, wall: Estimate) -> tuple[Estimate, str]:
    if any(m.kernel):
        return estimate(m.kernel), "graph replay" if m.entry["graphed"] else "host clock"
    if m.trace.get("kernel"):
        return estimate([m.trace["kernel"]]), m.trace.get("method", "cupti")
    return wall, "wall (no profiler answered)"

"""Bytes that really crossed the memory bus, from Nsight Compute: a step of its own, since a profiled run times nothing.

Each torch contender of a case runs once under ``ncu`` in a process of its own; clocks are left alone. Rows whose
counters cannot be read keep the counted figure, which says "counted".
"""

import csv
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from .results import Results
from .workloads import Case

METRICS: tuple[str, str] = ("dram__bytes_read.sum", "dram__bytes_write.sum")
SCALE = {"byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}


def fill(results: Results, only: tuple[str, ...], seconds: float) -> Iterator[str]:
    """Replaces ``hbm_bytes`` of torch forward rows, saving after each; a line of progress each."""
    tool = shutil.which("ncu") or shutil.which("/usr/local/cuda/bin/ncu")
    if tool is None:
        yield "ncu is not installed: the counted figures stay"
        return
    start = time.monotonic()
    for row in results.rows:
        timed = row["framework"] == "torch" and row["correct"] and row["mode"] == "forward"
        if not timed or (only and not any(w in row["case"] for w in only)):
            continue
        if time.monotonic() - start > seconds:
            yield "the time is used up"
            return
        case = Case(**{k: row[k] for k in ("workload", "m", "dtype", "mode", "cache")})
        name = f"{row['case']} {row['contender']} {row['plan']}"
        try:
            read, write = measure(tool, case, row["contender"], row["plan"])
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            yield f"{name}: {error}"
            continue
        row["hbm_bytes"] = {"read": read, "write": write, "method": "ncu"}
        results.save()
        yield f"{name}: {read:,.0f} read, {write:,.0f} written"


def measure(tool: str, case: Case, contender: str, plan: str) -> tuple[int, int]:
    """(read, written) bytes of one call on cold weights. Raises RuntimeError if ncu reads nothing."""
    once = json.dumps({"case": asdict(case), "contender": contender, "plan": plan})
    command = [tool, "--clock-control", "none", "--csv", "--metrics", ",".join(METRICS)]
    # The program marks the one call to look at with cudaProfilerStart and Stop.
    command += [
        "--profile-from-start",
        "off",
        "--cache-control",
        "all",
        sys.executable,
        "-m",
        "bench.once_torch",
        once,
    ]
    root = Path(__file__).parents[1]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=root)
    found = parse(answer.stdout)
    if not found:
        said = (answer.stdout + answer.stderr).strip().splitlines()
        raise RuntimeError(f"ncu read no counters: {said[-1][:200] if said else 'it said nothing'}")
    return found


def parse(text: str) -> tuple[int, int] | None:
    """The sums over all kernels of ncu's CSV; None without one."""
    lines = text.splitlines()
    head = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if head is None:
        return None
    total = dict.fromkeys(METRICS, 0.0)
    for line in csv.DictReader(io.StringIO("\n".join(lines[head:]))):
        if line.get("Metric Name") in total:
            value = float(line["Metric Value"].replace(",", ""))
            total[line["Metric Name"]] += value * SCALE.get(line["Metric Unit"], 1.0)
    return (round(total[METRICS[0]]), round(total[METRICS[1]])) if any(total.values()) else None

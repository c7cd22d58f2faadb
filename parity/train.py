"""`parity train`: one model trained four ways from the same bytes, and how far apart they end.

The verdict asks three things. No run goes astray: its losses are finite. Every run learns: the mean loss of the last
tenth of its steps is below LEARNED times its first loss. And they belong together: training amplifies any difference,
so that no bound from below can say how far two right runs may drift; but the two unfused runs, one a framework, show
how far those drift that differ in nothing but rounding. At each snapshot every other pair may be DRIFT times as far
apart: an unfused MLP rounds that many times where a fused one rounds once (UNFUSED_ROUNDINGS). A wrong gradient, or a
wrong rate, is seen at the first step, where rounding is thousands of times smaller.
"""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .contract.tolerance import UNFUSED_ROUNDINGS
from .judge import RUNNERS
from .process import run_both
from .train_model import Config
from .train_worker import snapshots

SCHEMA = "parity.train/1"
PAIRS = (("jaxfused", "torchfused"), ("jaxfused", "xla"), ("torchfused", "eager"), ("xla", "eager"))
LEARNED = 0.9
DRIFT = UNFUSED_ROUNDINGS
SECONDS = 1800.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One runner's losses, a step each, and its parameters and their hash at the snapshots."""

    loss: np.ndarray
    hashes: dict[int, str]
    parameters: dict[int, dict[str, np.ndarray]]


def train(device: str, c: Config, fault: str = "") -> dict[str, Run]:
    """Trains in both frameworks at the same time, a process each. Raises RuntimeError with a process' last words if it
    fails."""
    with tempfile.TemporaryDirectory(prefix="parity-train-") as folder:
        run_both("train", "gpu" if device == "gpu" else "cpu", [json.dumps(asdict(c)), folder, fault], SECONDS)
        return {name: _load(Path(folder) / f"{name}.npz", c.steps) for name in RUNNERS}


def compare(runs: dict[str, Run], c: Config) -> dict[str, Any]:
    """The curves and what the pairs have between them, ready for JSON; "passed" and "reasons"."""
    pairs = [_pair(a, b, runs[a], runs[b]) for a, b in PAIRS]
    reasons = []
    for name, run in runs.items():
        last = run.loss[-max(1, c.steps // 10) :].mean()
        if not np.isfinite(run.loss).all():
            reasons.append(f"{name}'s loss is not finite")
        elif not last < LEARNED * run.loss[0]:
            reasons.append(f"{name} did not learn: its loss went from {run.loss[0]:.3f} to {last:.3f}")
    *others, unfused = pairs
    for pair in others:
        for mine, theirs in zip(pair["drift"], unfused["drift"], strict=True):
            if mine["relative"] > DRIFT * theirs["relative"]:
                reasons.append(
                    f"{pair['a']} and {pair['b']} are {mine['relative']:.2e} apart after step {mine['step']}, "
                    f"{unfused['a']} and {unfused['b']} {theirs['relative']:.2e}"
                )
                break
    return {
        "config": asdict(c),
        "passed": not reasons,
        "reasons": reasons,
        "runs": {name: {"loss": [float(f"{v:.6g}") for v in run.loss]} for name, run in runs.items()},
        "pairs": pairs,
    }


def _pair(name_a: str, name_b: str, a: Run, b: Run) -> dict[str, Any]:
    apart = np.flatnonzero(a.loss.view(np.uint32) != b.loss.view(np.uint32))
    other = [step for step in a.hashes if a.hashes[step] != b.hashes[step]]
    return {
        "a": name_a,
        "b": name_b,
        # Steps count from one. None: no bit differs.
        "first_loss": int(apart[0]) + 1 if len(apart) else None,
        "first_parameters": other[0] if other else None,
        "drift": [{"step": step, "relative": _drift(a.parameters[step], b.parameters[step])} for step in a.parameters],
        "largest_loss_difference": float(np.abs(a.loss - b.loss).max()),
    }


def _drift(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """``|a - b| / |b|`` over all parameters."""
    off = sum(float(np.sum((a[name].astype(np.float64) - b[name]) ** 2)) for name in a)
    size = sum(float(np.sum(b[name].astype(np.float64) ** 2)) for name in a)
    return float(f"{np.sqrt(off / size):.6g}")


def _load(path: Path, steps: int) -> Run:
    with np.load(path) as file:
        kept = snapshots(steps)
        parameters = {
            step: {key.split("/")[1]: file[key] for key in file.files if key.startswith(f"{step}/")} for step in kept
        }
        hashes = {step: str(found.pop("hash")) for step, found in parameters.items()}
        return Run(loss=file["loss"], hashes=hashes, parameters=parameters)

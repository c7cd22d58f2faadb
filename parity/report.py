"""The run as JSON: schema, environment, every case with every number, and the counts."""

import json
import os
import platform
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .gpu import Gpu
from .run import ERROR, FAILED, PASSED, SKIPPED, Outcome

SCHEMA = "parity.run/1"
PACKAGES = ("numpy", "scipy", "ml_dtypes", "jax", "jaxlib", "flax", "torch", "triton")


def environment(device: str, gpu: Gpu | None, commit: str | None = None) -> dict[str, Any]:
    """Where and of what the results are: ``gpu`` is None when the interpreters ran, ``commit`` where git can tell."""
    return {
        "device": device,
        "gpu": gpu.device.name if gpu else None,
        "driver": gpu.driver if gpu else None,
        "capability": list(gpu.device.capability) if gpu else None,
        "machine": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": commit or _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def report(environment: dict[str, Any], outcomes: Sequence[Outcome], *, suite: str, planned: int) -> dict[str, Any]:
    """The whole report. ``planned`` cases were asked for; ``interrupted`` says that fewer were come to."""
    return {
        "schema": SCHEMA,
        "environment": environment,
        "suite": suite,
        "interrupted": len(outcomes) < planned,
        "summary": summary(outcomes) | {"planned": planned},
        "cases": [_case(outcome) for outcome in outcomes],
    }


def summary(outcomes: Sequence[Outcome]) -> dict[str, int]:
    counts = Counter(outcome.status for outcome in outcomes)
    return {
        "passed": counts[PASSED],
        "failed": counts[FAILED],
        "errors": counts[ERROR],
        "skipped": counts[SKIPPED],
    }


def write_atomically(path: Path, text: str) -> None:
    """Replaces the file in one step: who reads it sees the old or the new text. Devices and pipes are written to."""
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_text(text)
        return
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(handle, 0o644)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def check_writable(path: Path) -> None:
    """Raises OSError if ``write_atomically(path)`` would."""
    path = path.resolve()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory")
    if path.exists() and not path.is_file():
        return
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(f"{path} is not writable")
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def to_json(content: dict[str, Any]) -> str:
    """Strict JSON, a case a line: a NaN or an infinity is an error here, not a surprise in the reader's parser."""
    head = json.dumps({name: value for name, value in content.items() if name != "cases"}, indent=1, allow_nan=False)
    cases = (json.dumps(case, separators=(",", ":"), allow_nan=False) for case in content["cases"])
    return head.removesuffix("\n}") + ',\n "cases": [\n' + ",\n".join(cases) + "\n ]\n}\n"


def _case(outcome: Outcome) -> dict[str, Any]:
    case = outcome.case
    return {
        "name": case.name,
        "status": outcome.status,
        "reason": outcome.reason,
        "problem": asdict(case.problem),
        "plan": outcome.plan,
        "stimulus": {"kind": case.stimulus, "seed": case.seed, "sha256": outcome.stimulus},
        "demands": case.demands,
        "seconds": round(outcome.seconds, 3),
        "pairs": [pair.to_dict() for pair in outcome.pairs],
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit this file belongs to, "+" if the tree differs from it; None outside a repository."""
    folder = Path(__file__).resolve().parent
    try:
        commit, changed = (
            subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")

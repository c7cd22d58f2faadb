"""Where and when a run was measured."""

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from .gpu import find


def describe(device: str, versions: dict[str, str], commit: str | None = None) -> dict[str, Any]:
    """GPU, driver, versions, commit, date. A device that is no GPU says so in place of its name."""
    gpu = find() if device == "cuda" else None
    return {
        "device": device,
        "gpu": gpu.name if gpu else {"fake": "made-up times, no GPU", "cpu": "none (CPU dry run)"}.get(device, device),
        "driver": gpu.driver if gpu else None,
        "versions": versions,
        "commit": commit or head(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
    }


def head() -> str:
    """The commit the working tree is at, with ``+`` if it has changes; ``unknown`` outside a repository."""
    root = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"

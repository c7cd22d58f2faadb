"""One program for both twins on one GPU, a process each, as no process may import both frameworks."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TWINS = ("jax", "torch")


def told_by_both(program: str, **values: Any) -> dict[str, dict[str, str]]:
    """The JSON object that ``program`` prints last, by twin: its name and the ``values`` are filled in, and the tests'
    folder is its first argument."""
    started = {
        twin: subprocess.Popen(
            [sys.executable, "-c", program.format(twin=twin, **values), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for twin in TWINS
    }
    found = {}
    for twin, process in started.items():
        out, problems = process.communicate()
        assert process.returncode == 0, problems[-3000:]
        found[twin] = json.loads(out.splitlines()[-1])
    return found

"""One run's JSON file: rewritten whole after each row group, so that an interrupt loses nothing that was finished.

    {"schema": 1, "environment": {...}, "rows": [...], "cases": [...], "absent": [...], "problems": [...],
     "shares": [...]}

``cases``: the finished row groups, with the clock and the seconds they took; ``absent``: contenders that are not
installed, and why; ``problems``: contenders that refused, failed or were wrong on a case, and why; ``shares``: the
MLP's part of a transformer block's time.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 1
FOLDER = Path(__file__).with_name("results")
Row = dict[str, Any]


@dataclass
class Results:
    """A file's content and where it lives."""

    path: Path
    environment: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    cases: list[dict] = field(default_factory=list)
    absent: list[dict] = field(default_factory=list)
    problems: list[dict] = field(default_factory=list)
    shares: list[dict] = field(default_factory=list)

    @property
    def finished(self) -> set[str]:
        """The keys of the row groups that are done."""
        return {c["key"] for c in self.cases}

    @property
    def finished_in_order(self) -> list[str]:
        return [c["key"] for c in self.cases]

    def note_absent(self, framework: str, contender: str, reason: str) -> None:
        entry = {"framework": framework, "contender": contender, "reason": reason}
        if entry not in self.absent:
            self.absent.append(entry)

    def save(self) -> None:
        """Atomic: a reader sees the old file or the new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        body = {"schema": SCHEMA, "environment": self.environment, "cases": self.cases}
        body |= {"absent": self.absent, "problems": self.problems, "shares": self.shares}
        text = json.dumps(body, indent=1)[:-2]
        # One row a line: readable in a diff.
        text += ',\n "rows": [\n  ' + ",\n  ".join(json.dumps(r) for r in self.rows) + "\n ]\n}\n"
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name, suffix=".tmp")
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, self.path)


def load(path: Path) -> Results:
    """Raises ValueError for a file of another schema."""
    body = json.loads(path.read_text())
    if body.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {body.get('schema')!r}, this version reads {SCHEMA}")
    known = ("environment", "rows", "cases", "absent", "problems", "shares")
    return Results(path=path, **{k: body[k] for k in known})


def folder_of(gpu_name: str) -> str:
    """``NVIDIA H200`` -> ``h200``, ``NVIDIA H100 80GB HBM3`` -> ``h100``."""
    words = [w for w in gpu_name.lower().replace("-", " ").split() if w not in ("nvidia", "geforce", "tesla")]
    return words[0] if words else "unknown"


def committed(folder: Path = FOLDER, gpu: str | None = None) -> list[Results]:
    """Every result file of one GPU's folder, oldest first; the GPU of the newest file unless one is named."""
    loaded = [load(f) for f in ((folder / gpu).glob("*.json") if gpu else folder.glob("*/*.json"))]
    loaded.sort(key=lambda r: (str(r.environment.get("date", "")), r.path.name))
    return [r for r in loaded if r.path.parent == loaded[-1].path.parent]


def latest(runs: list[Results]) -> Results | None:
    """All runs as one: each row group from the newest run that finished it, never mixed from two runs."""
    if not runs:
        return None
    merged = Results(path=runs[-1].path, environment=runs[-1].environment)
    taken: set[str] = set()
    for run in reversed(runs):
        new = run.finished - taken
        taken |= new
        merged.rows += [r for r in run.rows if r["case"] in new]
        merged.cases += [c for c in run.cases if c["key"] in new]
        merged.problems += [p for p in run.problems if p.get("case") in new]
    merged.absent = runs[-1].absent
    merged.shares = next((r.shares for r in reversed(runs) if r.shares), [])
    return merged


def select(rows: list[Row], **wanted: Any) -> Iterator[Row]:
    """The rows whose fields equal all that is wanted (a set: are in it)."""
    for row in rows:
        if all(row.get(k) in v if isinstance(v, (set, frozenset)) else row.get(k) == v for k, v in wanted.items()):
            yield row

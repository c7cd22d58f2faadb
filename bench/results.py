"""One run's JSON file: rewritten whole after each row group, so that an interrupt loses nothing that was finished.

    {"schema": 1, "environment": {...}, "rows": [...], "cases": [...], "absent": [...], "problems": [...],
     "shares": [...]}

``cases``: the finished row groups, with the clock and the seconds they took, and ``chosen`` where not every contender
was asked for; ``absent``: contenders that are not installed, and why; ``problems``: contenders that refused, failed or
were wrong on a case, and why; ``shares``: the MLP's part of a transformer block's time.
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
    """A file's content and where it lives. ``beside``, of several files as one: what each later file has of the same
    cases with chosen contenders, newest first. A ratio is taken inside ``rows`` or inside one of them. ``runs``: all
    of the files, newest first."""

    path: Path
    environment: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    cases: list[dict] = field(default_factory=list)
    absent: list[dict] = field(default_factory=list)
    problems: list[dict] = field(default_factory=list)
    shares: list[dict] = field(default_factory=list)
    beside: list["Results"] = field(default_factory=list)
    runs: list["Results"] = field(default_factory=list)

    @property
    def finished(self) -> set[str]:
        """The keys of the row groups that are done."""
        return {c["key"] for c in self.cases}

    @property
    def whole(self) -> set[str]:
        """The keys of those that every contender was asked for."""
        return {c["key"] for c in self.cases if not c.get("chosen")}

    @property
    def finished_in_order(self) -> list[str]:
        return [c["key"] for c in self.cases]

    def only(self, keys: set[str]) -> "Results":
        """The cases, rows and problems of these row groups."""
        return Results(
            path=self.path,
            environment=self.environment,
            rows=[r for r in self.rows if r["case"] in keys],
            cases=[c for c in self.cases if c["key"] in keys],
            problems=[p for p in self.problems if p.get("case") in keys],
        )

    def note_absent(self, framework: str, contender: str, reason: str) -> None:
        entry = {"framework": framework, "contender": contender, "reason": reason}
        if entry not in self.absent:
            self.absent.append(entry)

    def save(self) -> None:
        body = {"schema": SCHEMA, "environment": self.environment, "cases": self.cases}
        body |= {"absent": self.absent, "problems": self.problems, "shares": self.shares}
        text = json.dumps(body, indent=1)[:-2]
        # One row a line: readable in a diff.
        text += ',\n "rows": [\n  ' + ",\n  ".join(json.dumps(r) for r in self.rows) + "\n ]\n}\n"
        rewrite(self.path, text)


def rewrite(path: Path, text: str) -> None:
    """Atomic: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.chmod(name, 0o644)
    os.replace(name, path)


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
    """Every result file of one GPU's folder, oldest first; unless one is named, of the GPU with the most cases (of
    equals, the one measured last)."""
    loaded = [load(f) for f in ((folder / gpu).glob("*.json") if gpu else folder.glob("*/*.json"))]
    loaded.sort(key=lambda r: (str(r.environment.get("date", "")), r.path.name))
    cases: dict[Path, set[str]] = {}
    for run in reversed(loaded):
        cases.setdefault(run.path.parent, set()).update(run.finished)
    home = max(cases, key=lambda place: len(cases[place]), default=None)
    return [r for r in loaded if r.path.parent == home]


def latest(runs: list[Results]) -> Results | None:
    """All runs as one, never a row group mixed from two. A group gives way to a newer one that is whole or has all of
    its contenders; a newer one of chosen contenders that has fewer stands ``beside``."""
    if not runs:
        return None
    standing: dict[str, list[_Group]] = {}
    for i, run in enumerate(runs):
        for group in _groups(i, run):
            old = standing.get(group.key, [])
            kept = [g for g in old if group.chosen and not g.contenders <= group.contenders]
            standing[group.key] = [*kept, group] if kept and kept[0] is old[0] else [group, *kept]
    merged = Results(path=runs[-1].path, runs=runs[::-1])
    leading = 0
    for i, run in reversed(list(enumerate(runs))):
        first = run.only({key for key, groups in standing.items() if groups[0].run == i})
        rest = run.only({key for key, groups in standing.items() if any(g.run == i for g in groups[1:])})
        merged.rows += first.rows
        merged.cases += first.cases
        merged.problems += first.problems
        merged.beside += [rest] if rest.cases else []
        leading = max(leading, i if first.cases else 0)
    merged.environment, merged.absent = runs[leading].environment, runs[leading].absent
    merged.shares = next((r.shares for r in reversed(runs) if r.shares), [])
    return merged


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class _Group:
    """One case of one run, by its place among the runs."""

    run: int
    key: str
    chosen: bool
    contenders: set[str]


def _groups(place: int, run: Results) -> Iterator[_Group]:
    contenders: dict[str, set[str]] = {}
    for r in run.rows:
        contenders.setdefault(r["case"], set()).add(r["contender"])
    for key in run.finished_in_order:
        yield _Group(run=place, key=key, chosen=key not in run.whole, contenders=contenders.get(key, set()))


def select(rows: list[Row], **wanted: Any) -> Iterator[Row]:
    """The rows whose fields equal all that is wanted (a set: are in it)."""
    for row in rows:
        if all(row.get(k) in v if isinstance(v, (set, frozenset)) else row.get(k) == v for k, v in wanted.items()):
            yield row

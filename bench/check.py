"""``python -m bench check GOALS.json``: rows against stated ratios.

{"schema": 1, "goals": [{
    "name": "decode, M = 1",            what it is called in the answer
    "workload": "article", "m": 1,      either may be a list: a goal for each
    "dtype": "bfloat16", "mode": "forward", "cache": "cold",     these are the defaults
    "ours": ["torchfused", "jaxfused"], the contenders that must reach it, each (the default); their automatic plan
    "metric": "kernel_us",              or "wall_us"; "against_metric" is the same unless stated
    "against": "stream",                a roof ("stream", "gemm", "copy"), contenders by name (one or a list: the
                                        fastest of them), "best_other" (the fastest that is not ours, in the same
                                        framework) or "best_other_any" (in either)
    "at_most": 1.10                     our time over theirs; or "at_least": their time over ours
}]}
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from .results import Row, select

SCHEMA = 1
ROOFS = ("stream", "gemm", "copy")
OURS = ("torchfused", "jaxfused")
# The worst last.
VERDICTS = ("NOT MEASURED", "REACHED", "MISSED")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One goal on one contender. ``verdict``: one of VERDICTS."""

    goal: str
    ours: str
    place: str
    wanted: str
    ratio: float | None
    verdict: str
    why: str = ""


def read(path: Path) -> list[dict[str, Any]]:
    """The goals, lists of workloads and sizes multiplied out. Raises ValueError naming what is wrong with one."""
    body = json.loads(path.read_text())
    if body.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {body.get('schema')!r}, this version reads {SCHEMA}")
    goals = []
    for g in body["goals"]:
        if ("at_most" in g) == ("at_least" in g):
            raise ValueError(f"goal {g.get('name')!r} needs one of at_most and at_least")
        missing = {"name", "workload", "m", "against"} - set(g)
        if missing:
            raise ValueError(f"goal {g.get('name')!r} lacks {', '.join(sorted(missing))}")
        for work, m in product(_list(g["workload"]), _list(g["m"])):
            goals.append({**g, "workload": work, "m": m})
    return goals


def check(goals: list[dict[str, Any]], *runs: list[Row]) -> list[Outcome]:
    """An outcome a goal and contender, in order: the worst of those that each run's rows give by themselves."""
    return [
        max((_one(rows, g, name) for rows in runs or [[]]), key=lambda o: VERDICTS.index(o.verdict))
        for g in goals
        for name in _list(g.get("ours", list(OURS)))
    ]


def others(rows: list[Row], framework: str | None = None) -> Iterator[Row]:
    """Timed rows that are not ours; of one framework, or of both."""
    for row in rows:
        if not row["contender"].startswith((*OURS, "fake.")) and row["correct"]:
            if framework in (None, row["framework"]):
                yield row


def group(rows: list[Row], goal: dict[str, Any]) -> list[Row]:
    """The rows of the goal's case."""
    place = {"dtype": goal.get("dtype", "bfloat16"), "mode": goal.get("mode", "forward")}
    place |= {"cache": goal.get("cache", "cold"), "workload": goal["workload"], "m": goal["m"]}
    return list(select(rows, **place))


def _one(rows: list[Row], goal: dict[str, Any], name: str) -> Outcome:
    at_most = "at_most" in goal
    metric = goal.get("metric", "kernel_us")
    theirs = goal.get("against_metric", metric)
    against = goal["against"]
    shown = " or ".join(_list(against))
    kind = "time over" if at_most else "faster than"
    wanted = f"{'<=' if at_most else '>='} {goal['at_most' if at_most else 'at_least']:.2f}x {kind} {shown}"
    place = f"{goal['workload']} M={goal['m']} {goal.get('dtype', 'bfloat16')} {goal.get('mode', 'forward')}"
    rows = group(rows, goal)
    mine = next(iter(select(rows, contender=name, plan="auto")), None)
    outcome = {"goal": goal["name"], "ours": name, "place": place, "wanted": wanted}
    if mine is None:
        return Outcome(**outcome, ratio=None, verdict="NOT MEASURED", why=f"no row of {name}")
    if not mine["correct"]:
        return Outcome(**outcome, ratio=None, verdict="MISSED", why="its result was wrong")
    other, label = _against(rows, mine, against, theirs)
    if other is None:
        return Outcome(**outcome, ratio=None, verdict="NOT MEASURED", why=f"no row of {shown}")
    own = mine[metric]["median"]
    ratio = own / other if at_most else other / own
    reached = ratio <= goal["at_most"] if at_most else ratio >= goal["at_least"]
    why = f"{own:.1f} us against {other:.1f} us ({label})"
    return Outcome(**outcome, ratio=ratio, verdict="REACHED" if reached else "MISSED", why=why)


def _against(rows: list[Row], mine: Row, against: str | list[str], metric: str) -> tuple[float | None, str]:
    """The time to compare with and whose it is."""
    if against in ROOFS:
        return mine.get(f"{against}_us"), f"{against} roof"
    if against in ("best_other", "best_other_any"):
        found = list(others(rows, mine["framework"] if against == "best_other" else None))
    else:
        found = [r for r in rows if r["contender"] in _list(against) and r["correct"]]
    if not found:
        return None, ""
    best = min(found, key=lambda r: r[metric]["median"])
    return best[metric]["median"], best["contender"]


def _list(value: Any) -> list:
    return value if isinstance(value, list) else [value]

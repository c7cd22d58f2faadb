"""``parity report``: whatever the commands have written into a folder, as one page that needs nothing else."""

import base64
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from . import determinism, drift_report, golden, inject, latency, order, report, tokens, train, vendor
from .contract.tolerance import VERDICTS
from .judge import FUSED, ORACLE
from .page_plots import attribution, bars, image_of_order, intervals

SCHEMAS = {
    module.SCHEMA
    for module in (determinism, drift_report, golden, inject, latency, order, report, tokens, train, vendor)
}
TEMPLATES = Path(__file__).with_name("templates")
# The pairs of the verdict table and of the histograms, by what they are called there.
COUPLES = {
    "jaxfused ~ torchfused": FUSED,
    "jaxfused ~ float64": ("jaxfused", ORACLE),
    "torchfused ~ float64": ("torchfused", ORACLE),
    "jaxfused ~ XLA": ("jaxfused", "xla"),
    "torchfused ~ eager": ("torchfused", "eager"),
    "XLA ~ eager": ("xla", "eager"),
}
# The most rows of one table of a report that has no section of its own.
ROWS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """One file in one line: is it good, and what does it say."""

    name: str
    good: bool
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """The files of a folder by kind ("run", "order", ...), each with its name; pictures beside them; by name what is
    not shown, and why."""

    reports: Mapping[str, list[tuple[str, dict[str, Any]]]]
    pictures: list[tuple[str, str]] = field(default_factory=list)
    hidden: list[tuple[str, str]] = field(default_factory=list)

    def of(self, kind: str) -> list[tuple[str, dict[str, Any]]]:
        return self.reports.get(kind, [])


def collect(folder: Path) -> Content:
    """Every ``*.json`` of a schema in SCHEMAS, and every ``*.png``. Raises FileNotFoundError without any of the former,
    and says what there is instead."""
    reports: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    hidden = []
    for path in sorted(folder.glob("*.json")):
        try:
            found = json.loads(path.read_text())
        except ValueError:
            hidden.append((path.name, "it is no JSON"))
            continue
        schema = found.get("schema") if isinstance(found, dict) else None
        if isinstance(schema, str) and schema in SCHEMAS:
            reports.setdefault(_kind(schema), []).append((path.name, found))
        else:
            hidden.append((path.name, f"its schema {schema!r} is not known here" if schema else "it has no schema"))
    if not reports:
        seen = "".join(f"\n{name}: {why}" for name, why in hidden)
        raise FileNotFoundError(f"{folder} has no JSON that a parity command wrote{seen}")
    pictures = [(path.stem, _encoded(path.read_bytes())) for path in sorted(folder.glob("*.png"))]
    return Content(reports=reports, pictures=pictures, hidden=hidden)


def page(content: Content) -> str:
    """The HTML: pictures inside, no script, nothing fetched."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda f: "" if f is None else f"{100 * f:.4g} %"
    environment.filters["power"] = lambda f: "" if f is None else f"{f:.1e}"
    known = ("run", "order", "determinism", "latency", "tokens", "inject", "vendor")
    return environment.get_template("report.html.j2").render(
        headlines=headlines(content),
        where=[(name, _where(found)) for name, found in _all(content)],
        content=content,
        runs=[(name, found, _verdicts(found), _histograms(found)) for name, found in content.of("run")],
        verdicts=VERDICTS,
        orders=[(name, found, image_of_order(found)) for name, found in content.of("order")],
        determinism=[(name, found, _matrix(found)) for name, found in content.of("determinism")],
        latency=[(name, found, intervals(found)) for name, found in content.of("latency")],
        vendor=[(name, found, _replayed(found), _unanswered(found)) for name, found in content.of("vendor")],
        others=[(name, kind, attribution(part), _tables(part)) for kind in content.reports if kind not in known
                for name, found in content.of(kind) for part in found.get("drifts", [found])],
    )  # fmt: skip


def headlines(content: Content) -> list[Headline]:
    """A line a file, the red ones first."""
    found = []
    for kind, reports in content.reports.items():
        for name, content_of in reports:
            good, text = _headline(kind, content_of)
            found.append(Headline(name=name, good=good, text=text))
    return sorted(found, key=lambda headline: headline.good)


def _headline(kind: str, report: dict[str, Any]) -> tuple[bool, str]:
    if kind == "run":
        s, equal = report["summary"], _verdicts(report).get("jaxfused ~ torchfused", {})
        text = f"{s['passed']} cases passed, {s['failed']} failed, {s['errors']} errors, {s['skipped']} skipped"
        if sum(equal.values()):
            text += f"; twins bit-equal in {equal['BIT_EQUAL']} of {sum(equal.values())}"
        return not (s["failed"] or s["errors"] or report.get("interrupted")), text
    if kind == "determinism":
        red = [check for check in report["checks"] if check["red"]]
        ys = len([c for c in report["classes"] if c["stage"] == "y"])
        text = f"{len(report['checks'])} checks over {report['runs']} runs of each plan, {len(red)} broken promises"
        return report["passed"], f"{text}; {ys} classes of equal y"
    if kind == "order":
        without = [f for f in report["findings"] if not f["order"]]
        digests = {f["digest"] for f in report["findings"] if f["digest"]}
        return not without, f"{len(report['findings'])} GEMMs, {len(digests)} different orders, {len(without)} without"
    if kind == "golden":
        red = [check for check in report["checks"] if check["why"] or any(check["wrong"].values())]
        outputs, wrong = (sum(sum(c[key].values()) for c in report["checks"]) for key in ("outputs", "wrong"))
        return not red, f"{outputs - wrong} of {outputs} outputs predicted to the bit, {len(red)} checks red"
    if kind == "drift":
        portraits = [one for drift in report["drifts"] for one in drift["portraits"]]
        wrong, total = (sum(sum(one[key].values()) for one in portraits) for key in ("wrong", "total"))
        text = f"{wrong} of {total} elements are not replayed to the bit, {len(report['reasons'])} red"
        return not report["reasons"], text
    if kind == "latency":
        wrong = [row for row in report["rows"] if row["wrong"]]
        said = [f"{p['ratio']:.2f} ({p['verdict']})" for row in report["rows"] for p in row["pairs"][:1]]
        return not wrong, f"jaxfused / torchfused: {', '.join(said) or 'nothing timed'}"
    if kind == "tokens":
        pairs = [pair for depth in report["depths"] for pair in depth["pairs"]]
        most = max((pair["flip_rate"] for pair in pairs), default=0.0)
        return report["passed"], f"the likeliest character flips in {100 * most:.3g} % of the steps at most"
    if kind == "inject":
        return not report["stages"], f"{report['case']}: {report['text']}"
    if kind == "vendor":
        promised = [case for case in report["cases"] if case["promised"]]
        equal = len([case for case in promised if not case["red"]])
        # (A file that does not say what is red is not known to be good.)
        red = report.get("reasons", ["no reasons are given"])
        text = f"{equal} of {len(promised)} promised MLPs have every bit of torch's eager, {len(red)} red"
        return bool(promised) and equal == len(promised) and not red, text
    reasons = report.get("reasons", [])
    return not reasons and report.get("passed", True), "; ".join(map(str, reasons)) or "nothing is red"


def _verdicts(report: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Of each couple, how many cases have which verdict as their worst."""
    found: dict[str, dict[str, int]] = {}
    for title, couple in COUPLES.items():
        counts: dict[str, int] = dict.fromkeys(map(str, VERDICTS), 0)
        for case in report["cases"]:
            of = [VERDICTS.index(pair["verdict"]) for pair in case["pairs"] if (pair["a"], pair["b"]) == couple]
            if of:
                counts[VERDICTS[max(of)]] += 1
        if any(counts.values()):
            found[title] = counts
    return found


def _histograms(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Of each couple, the ulps between their y over all cases, as bars."""
    found = []
    for title, couple in COUPLES.items():
        total: list[int] = []
        for case in report["cases"]:
            for pair in case["pairs"]:
                if (pair["a"], pair["b"]) == couple and pair["stage"] == "y":
                    counts = pair.get("ulps", [])
                    total += [0] * (len(counts) - len(total))
                    for i, count in enumerate(counts):
                        total[i] += count
        if sum(total):
            found.append((title, bars(total)))
    return found


def _matrix(report: dict[str, Any]) -> list[tuple[tuple[str, str, str], dict[str, dict[str, Any]]]]:
    """The checks by (case, plan, runner)."""
    found: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for check in report["checks"]:
        found.setdefault((check["case"], check["plan"], check["runner"]), {})[check["check"]] = check
    return list(found.items())


def _replayed(report: dict[str, Any]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The MLPs by what they are and the number of rows, each with its verdicts."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for case in report["cases"]:
        p = case["problem"]
        form = f"{'gated ' if p['gated'] else ''}{p['activation']}{' biased' if p['bias_up'] else ''}"
        sizes = f"{p['in_features']}-{p['hidden_features']}-{p['out_features']}"
        found.setdefault(f"{form} {sizes} {p['dtype']}", {}).setdefault(str(p["m"]), []).append(case)
    return found


def _unanswered(report: dict[str, Any]) -> dict[str, int]:
    """Why orders could not be asked for: in how many layers and numbers of rows."""
    return dict(Counter(layer["why"] for layer in report["layers"] if layer["why"]))


def _tables(report: dict[str, Any]) -> list[tuple[str, list[str], list[dict[str, Any]]]]:
    """Every list of records in a report of which no more is known: (its name, columns, rows)."""
    found = []
    for name, value in report.items():
        rows = [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
        if rows:
            columns = [key for key, cell in rows[0].items() if not isinstance(cell, list | dict) or len(str(cell)) < 60]
            found.append((name, columns, rows[:ROWS]))
    return found


def _kind(schema: str) -> str:
    return schema.removeprefix("parity.").partition("/")[0]


def _where(report: dict[str, Any]) -> str:
    e = report.get("environment", {})
    versions = ", ".join(f"{name} {version}" for name, version in e.get("versions", {}).items())
    parts = [e.get("gpu") or "CPU, interpreters", f"driver {e['driver']}" if e.get("driver") else "", versions]
    parts += [f"commit {e['commit'][:12]}" if e.get("commit") else "", e.get("date", "")]
    return "; ".join(filter(None, parts))


def _all(content: Content) -> Iterable[tuple[str, dict[str, Any]]]:
    return (pair for reports in content.reports.values() for pair in reports)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()

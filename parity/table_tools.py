"""What ``parity determinism``, ``inject``, ``latency`` and ``tokens`` found, as tables for the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from .determinism import Battery, Check
from .latency import Row
from .table import headed

YES, NO, OTHER = "[green]yes", "[bold red]NO", "[dim]no"
# The batch is asked about as a row alone, and as a part of a smaller and a larger one.
ASKED = ("repeat", "process", "alone", "batch", "position")


def print_determinism(battery: Battery, console: Console) -> None:
    """Prints a line a plan and runner, what is red, and the classes of equal bits."""
    kept: dict[tuple[str, str, str], dict[str, Check]] = {}
    for check in battery.checks:
        kept.setdefault((check.case, check.plan, check.runner), {})[check.check] = check
    table = headed("case", "plan", "runner", *ASKED)
    for (case, plan, runner), checks in kept.items():
        if "repeat" in checks:
            table.add_row(case, plan, runner, *(_answer(checks.get(name)) for name in ASKED))
    console.print(table, highlight=False)
    shared = headed("case", "plans of", "of these", "same bits")
    for check in battery.checks:
        if check.check.startswith("shared"):
            shared.add_row(check.case, check.plan, check.check.removeprefix("shared "), _answer(check))
    console.print(shared, highlight=False)
    for check in battery.checks:
        if check.red:
            text = f"{check.case} {check.plan} {check.runner} {check.check}: {check.detail}"
            console.print(f"[bold red]RED[/] {escape(text)}", highlight=False)
    console.print("\nThe same y, bit for bit:", highlight=False)
    for found in battery.classes:
        if found.stage == "y":
            names = ", ".join(found.members)
            console.print(f"  {found.case} {found.sha256[:12]}: {escape(names)}", highlight=False)
    print_verdict((check.detail for check in battery.checks if check.red), console)


def print_latency(rows: Sequence[Row], console: Console) -> None:
    """Prints each runner's median and each pair's ratio with its interval and what may be said of it."""
    times = headed("case", "runner", "us a layer", "95 %")
    pairs = headed("case", "b / a", "ratio", "95 %", "b is")
    for row in rows:
        for name, found in row.estimates.items():
            times.add_row(row.case.name, name, f"{found.median:,.2f}", f"{found.low:,.2f} - {found.high:,.2f}")
        for (a, b), c in row.pairs.items():
            pairs.add_row(row.case.name, f"{b} / {a}", f"{c.ratio:.3f}", f"{c.low:.3f} - {c.high:.3f}", c.verdict)
    console.print(times, highlight=False)
    console.print(pairs, highlight=False)
    for row in rows:
        if row.wrong:
            console.print(f"[bold red]RED[/] {escape(row.case.name)}: {escape(row.wrong)}", highlight=False)
        if row.skipped:
            console.print(f"[dim]{escape(row.case.name)} was not run: {escape(row.skipped)}[/]", highlight=False)


def print_tokens(found: Mapping[str, Any], console: Console) -> None:
    """Prints each pair's distance in each depth: of what is said, and of the logits."""
    table = headed("depth", "pair", "first other", "flips", "predicted", "|d logprob|", "KL", "logits equal")
    for depth in found["depths"]:
        for p in depth["pairs"]:
            first = "never" if p["first_divergence"] is None else f"at {p['first_divergence']}"
            table.add_row(
                str(depth["config"]["depth"]),
                f"{p['a']} ~ {p['b']}",
                first,
                f"{100 * p['flip_rate']:.3g} %",
                f"{100 * p['flip_rate_predicted']:.3g} %",
                f"{p['logprob_mean']:.1e}",
                f"{p['kl_mean']:.1e}",
                f"{100 * p['logits_equal']:.4g} %",
            )
    console.print(table, highlight=False)
    for reason in found["reasons"]:
        console.print(f"[bold red]RED[/] {escape(reason)}", highlight=False)
    print_verdict(found["reasons"], console)


def print_verdict(reasons: Iterable[str], console: Console) -> None:
    """The last line: passed, or how much is red."""
    count = len(list(reasons))
    console.print("[green]passed[/]" if not count else f"[bold red]{count} RED[/]")


def _answer(check: Check | None) -> str:
    if check is None:
        return ""
    return YES if check.passed else NO if check.promised else OTHER

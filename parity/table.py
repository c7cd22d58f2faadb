"""The run as a table for the terminal: one line a case, 100 columns, then what is red in detail."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .contract.tolerance import VERDICTS
from .judge import ORACLE, Pair
from .order import GemmOrder
from .report import summary
from .run import ERROR, FAILED, PASSED, SKIPPED, Outcome

WIDTH = 100
COLUMNS = {
    "jax~\ntorch": ("jaxfused", "torchfused"),
    "jax~\noracle": ("jaxfused", ORACLE),
    "torch~\noracle": ("torchfused", ORACLE),
    "jax~\nxla": ("jaxfused", "xla"),
    "torch~\neager": ("torchfused", "eager"),
}
COLORS = {
    "BIT_EQUAL": "green",
    "FLIP_EXPLAINED": "blue",
    "WITHIN_STAT": "cyan",
    "WITHIN_DET": "yellow",
    "FAIL": "bold red",
}
STATUS = {PASSED: "[green]ok", FAILED: "[bold red]RED", ERROR: "[bold red]ERROR", SKIPPED: "[dim]skip"}
DETAILS = 8
LEGEND = (
    "jax, torch: jaxfused, torchfused. The worst stage of the forward (s, u, h, y) and of the gradients: "
    "[green]bits[/] all bits equal; "
    "[blue]flip[/] as many as rounding must make differ; "
    "[cyan]stat[/] within the statistical bounds, and the part of them used; "
    "[yellow]det[/] only within the worst-case bound; [bold red]FAIL[/] beyond it; "
    "bytes: they arrived, nothing is computed."
)


def print_table(outcomes: Sequence[Outcome], console: Console, seconds: float) -> None:
    """Prints the cases, the red ones' details, why some were skipped, the counts, and the ``seconds`` it took."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", width=min(WIDTH, console.width))
    table.add_column("case", ratio=1, no_wrap=True, overflow="ellipsis")
    for heading in COLUMNS:
        table.add_column(heading, no_wrap=True)
    table.add_column("", no_wrap=True)
    for outcome in outcomes:
        cells = [cell([pair for pair in outcome.pairs if (pair.a, pair.b) == couple]) for couple in COLUMNS.values()]
        if outcome.status == PASSED and not outcome.pairs:
            cells[0] = "[dim]bytes[/]"
        table.add_row(escape(outcome.case.name), *cells, STATUS[outcome.status])
    console.print(table)
    if any(outcome.pairs for outcome in outcomes):
        console.print(LEGEND, style="dim", width=min(WIDTH, console.width))
    for outcome in outcomes:
        if outcome.status in (FAILED, ERROR):
            print_red(outcome, console)
    for reason, names in _skipped(outcomes).items():
        console.print(f"\n[dim]{len(names)} skipped: {escape(reason)}[/]", highlight=False)
    console.print(f"\n{counts(outcomes)} in {seconds:.0f} s", highlight=False)


def print_training(result: Mapping[str, Any], console: Console) -> None:
    """What `parity train` found: each run's loss, each pair's distance, the verdict."""
    table = headed("run", "first loss", "last loss")
    for name, run in result["runs"].items():
        table.add_row(name, f"{run['loss'][0]:.4f}", f"{run['loss'][-1]:.4f}")
    console.print(table)
    table = headed("pair", "loss differs", "parameters differ", "apart at the end", "largest loss difference")
    for pair in result["pairs"]:
        first = ("never" if pair[key] is None else f"at step {pair[key]}" for key in ("first_loss", "first_parameters"))
        apart = pair["drift"][-1]["relative"]
        table.add_row(f"{pair['a']} ~ {pair['b']}", *first, f"{apart:.2e}", f"{pair['largest_loss_difference']:.2e}")
    console.print(table)
    red = f"[bold red]RED[/] {escape('; '.join(result['reasons']))}"
    console.print("[green]passed[/]" if result["passed"] else red)


def print_red(outcome: Outcome, console: Console) -> None:
    """One red case: its reason and its worst comparisons."""
    console.print(f"\n{STATUS[outcome.status]}[/] {escape(outcome.case.name)}", highlight=False)
    console.print(escape(outcome.reason), highlight=False, soft_wrap=True)
    red = sorted((pair for pair in outcome.pairs if pair.red), key=_badness, reverse=True)
    for pair in red[:DETAILS]:
        console.print("  " + escape(describe(pair)), highlight=False)
    if len(red) > DETAILS:
        console.print(f"  and {len(red) - DETAILS} more, in the JSON", highlight=False)


def cell(pairs: Sequence[Pair]) -> str:
    """The worst verdict of ``pairs``, coloured; empty without any."""
    if not pairs:
        return ""
    worst = max(pairs, key=_badness)
    verdict, part = worst.comparison.verdict, used(worst)
    short = ("bits", "flip", "stat", "det", "FAIL")[VERDICTS.index(verdict)]
    number = (
        ""
        if verdict == "BIT_EQUAL" or part is None
        else f" {part:.2f}".replace(" 0.", " .")
        if part < 10
        else f" {part:.0e}"
    )
    return f"[{'bold red' if worst.red else COLORS[verdict]}]{short}{number}[/]"


def print_orders(findings: Sequence[GemmOrder], console: Console) -> None:
    """Prints each GEMM's order of summation in words, and its hash: equal orders have equal ones."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", width=min(WIDTH, console.width))
    for heading in ("runner", "GEMM", "hash"):
        table.add_column(heading, no_wrap=True)
    table.add_column("order of summation", ratio=1, overflow="fold")
    for finding in findings:
        name = finding.order.digest if finding.order else "[bold red]none[/]"
        table.add_row(finding.runner, finding.gemm, name, escape(str(finding)))
    console.print(table, highlight=False)


def headed(*headings: str) -> Table:
    """An empty table; a word that is too long for its column is broken, not cut off."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def used(pair: Pair) -> float | None:
    """The part of its bounds a comparison uses: the energy's, unless a single element is beyond its own."""
    c = pair.comparison
    if c.element is None or c.energy is None:
        return None
    return c.energy if c.element <= 1.0 else max(c.element, c.energy)


def describe(pair: Pair) -> str:
    """One comparison in one line of text."""
    c = pair.comparison
    text = f"{pair.a} ~ {pair.b} {pair.stage}: {c.verdict}"
    if c.element is not None and c.energy is not None:
        text += f", {c.element:.3g} of an element's bound, {c.energy:.3g} of the energy's"
    if c.max_abs is not None:
        text += f", max {c.max_abs:.3g} at {list(c.at or ())}, {c.max_ulp} ulp"
    return f"{text}, {100 * c.bit_equal:.4g} % of bits equal"


def counts(outcomes: Sequence[Outcome]) -> str:
    """How many passed, failed, went wrong and were skipped."""
    colors = {"passed": "green", "failed": "bold red", "errors": "bold red", "skipped": "dim"}
    found = {what: count for what, count in summary(outcomes).items() if count or what in ("passed", "failed")}
    parts = [f"[{colors[what] if count else 'default'}]{count} {what}[/]" for what, count in found.items()]
    return ", ".join(parts)


def _badness(pair: Pair) -> tuple[bool, int, float]:
    part = used(pair)
    return pair.red, VERDICTS.index(pair.comparison.verdict), float("inf") if part is None else part


def _skipped(outcomes: Sequence[Outcome]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.status == SKIPPED:
            reasons.setdefault(outcome.reason, []).append(outcome.case.name)
    return reasons

"""``python -m parity list``, ``run`` and ``report``: cases, their verdicts, and a page of all that was written."""

import bisect
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import options
from .cases import SUITES, Case
from .gpu import Gpu
from .junit import to_junit
from .options import Cases, Commit, Device, Json
from .report import report, to_json, write_atomically
from .run import CASE_SECONDS, ERROR, FAILED, Outcome
from .run import run as run_cases
from .table import print_table

# So often, at most, the JSON is brought up to date while the run goes on.
CHECKPOINT_SECONDS = 10.0

Suite = Annotated[str, typer.Option(help=f"Which cases: {', '.join(SUITES)}.")]


def list_cases(suite: Suite = "full") -> None:
    """Names the cases of a suite."""
    for case in _suite(suite):
        typer.echo(case.name)


def run(
    suite: Suite = "smoke",
    case: Cases = None,
    device: Device = "auto",
    json: Json = None,
    junit: Annotated[Path | None, typer.Option(help="Where to write JUnit XML.")] = None,
    commit: Commit = None,
    jobs: Annotated[int | None, typer.Option(help="Cases at a time, each with workers of its own.", min=1)] = None,
    limit: Annotated[float, typer.Option(help="Seconds a worker may take for one case.", min=1)] = CASE_SECONDS,
) -> None:
    """Runs a suite: both twins and their frameworks' own MLPs, against each other and a float64 oracle."""
    chosen, suite = (options.named(case), "chosen") if case else (_suite(suite), suite)
    here = options.here(device)
    options.check_writable(json, junit)
    where = replace(
        here.where(),
        case_seconds=limit,
        jobs=jobs or _lanes(bool(here.gpu)),
    )
    order = {case.name: index for index, case in enumerate(chosen)}
    facts = here.facts(commit)
    outcomes: list[Outcome] = []
    started = written = time.monotonic()

    def write() -> None:
        if json:
            write_atomically(json, to_json(report(facts, outcomes, suite=suite, planned=len(chosen))))
        if junit:
            write_atomically(junit, to_junit(outcomes, suite))

    def done(outcome: Outcome) -> None:
        nonlocal written
        bisect.insort(outcomes, outcome, key=lambda known: order[known.case.name])
        if time.monotonic() - written > CHECKPOINT_SECONDS:
            write()
            written = time.monotonic()

    console = options.console()
    console.print(_heading(suite, len(chosen), here.gpu), highlight=False)
    interrupted = False
    try:
        with _interruptible(), _progress(chosen, done) as step:
            facts["workers"] = run_cases(chosen, where, step)
    except KeyboardInterrupt:
        interrupted = True
    write()
    print_table(outcomes, console, time.monotonic() - started)
    if interrupted:
        console.print(
            f"[bold red]interrupted[/]: {len(chosen) - len(outcomes)} cases were not come to", highlight=False
        )
        raise typer.Exit(130)
    raise typer.Exit(int(any(outcome.status in (FAILED, ERROR) for outcome in outcomes)))


def report_page(
    out: Annotated[Path, typer.Option(help="Where to write the page.")],
    folder: Annotated[Path, typer.Option(help="Where the commands wrote their JSON (and PNG).")] = Path("out"),
) -> None:
    """Makes one page that needs nothing else of whatever JSON a folder has; exit code 1 where some of it is red."""
    from .page import collect, headlines, page

    options.check_writable(out)
    try:
        content = collect(folder)
    except FileNotFoundError as error:
        raise typer.BadParameter(str(error)) from None
    write_atomically(out, page(content))
    for headline in headlines(content):
        typer.echo(f"{'ok ' if headline.good else 'RED'} {headline.name}: {headline.text}")
    for name, why in content.hidden:
        typer.echo(f"not shown: {name}: {why}")
    raise typer.Exit(int(not all(headline.good for headline in headlines(content))))


def _suite(name: str) -> list[Case]:
    options.among("suite", [name], list(SUITES))
    return SUITES[name]()


def _lanes(gpu: bool) -> int:
    """How many cases are under way at a time. Interpreted, a case keeps one core busy, its JAX worker's compiler; on a
    GPU's host both workers and the oracle of larger layers keep four."""
    return max(1, min(4, (os.cpu_count() or 1) // (4 if gpu else 1)))


def _heading(suite: str, count: int, gpu: Gpu | None) -> str:
    where = gpu.device.name if gpu else "the CPU, both kernel interpreters"
    return f"parity: {count} cases ({suite}) on {where}\n"


@contextmanager
def _progress(cases: list[Case], done: Callable[[Outcome], None]) -> Iterator[Callable[[Outcome], None]]:
    """``done`` with a progress bar on stderr, if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(cases[0].name if cases else "", total=len(cases))
        names = [case.name for case in cases[1:]] + [""]

        def step(outcome: Outcome) -> None:
            done(outcome)
            progress.update(task, advance=1, description=names[int(progress.tasks[0].completed)])

        yield step


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the run as an interrupt from the keyboard does."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

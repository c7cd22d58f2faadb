"""The command line: ``python -m parity run``, ``list``, ``train``, ``order``, ``drift`` and ``golden``. Exit code 0:
nothing is red; 1: something is; 2: misuse."""

import bisect
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from fnmatch import fnmatchcase
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .cases import SUITES, Case, known
from .cli_numerics import drift, golden
from .contract.plan import Plan
from .contract.problem import Device
from .gpu import Gpu
from .junit import to_junit
from .options import check_writable as _check_writable
from .options import gpu as _gpu
from .process import WorkerError, specs
from .report import environment, report, to_json, write_atomically
from .run import CASE_SECONDS, ERROR, FAILED, Outcome, Where
from .run import run as run_cases
from .table import WIDTH, print_orders, print_table, print_training

# So often, at most, the JSON is brought up to date while the run goes on.
CHECKPOINT_SECONDS = 10.0

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Feeds jaxfused and torchfused the same bytes and says how far apart they are, and why.",
)

Suite = Annotated[str, typer.Option(help=f"Which cases: {', '.join(SUITES)}.")]


@app.command("list")
def list_cases(suite: Suite = "full") -> None:
    """Names the cases of a suite."""
    for case in _suite(suite):
        typer.echo(case.name)


@app.command()
def run(
    suite: Suite = "smoke",
    case: Annotated[list[str] | None, typer.Option(help="A case by name, or a pattern such as 'gelu*'.")] = None,
    device: Annotated[str, typer.Option(help="auto: the GPU if there is one, else the interpreters.")] = "auto",
    json: Annotated[Path | None, typer.Option(help="Where to write every number, as JSON.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Where to write JUnit XML.")] = None,
    commit: Annotated[str | None, typer.Option(help="The commit, where the working tree has no repository.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Cases at a time; more than one on a GPU's host.", min=1)] = None,
    limit: Annotated[float, typer.Option(help="Seconds a worker may take for one case.", min=1)] = CASE_SECONDS,
) -> None:
    """Runs a suite: both twins and their frameworks' own MLPs, against each other and a float64 oracle."""
    chosen, suite = (_named(case), "chosen") if case else (_suite(suite), suite)
    gpu = _gpu(device)
    _check_writable(json, junit)
    name = "gpu" if gpu else "cpu"
    where = Where(
        device=gpu.device if gpu else Device(kind="interpreter"),
        workers=specs(name),
        case_seconds=limit,
        # Two workers and the oracle keep four cores busy; the interpreters would take turns on two.
        jobs=jobs or (max(1, min(4, (os.cpu_count() or 1) // 4)) if gpu else 1),
    )
    order = {case.name: index for index, case in enumerate(chosen)}
    facts = environment(name, gpu, commit)
    outcomes: list[Outcome] = []
    written = time.monotonic()

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

    console = Console(width=None if Console().is_terminal else WIDTH)
    console.print(_heading(suite, len(chosen), gpu), highlight=False)
    interrupted = False
    try:
        with _interruptible(), _progress(chosen, done) as step:
            facts["workers"] = run_cases(chosen, where, step)
    except KeyboardInterrupt:
        interrupted = True
    write()
    print_table(outcomes, console)
    if interrupted:
        console.print(
            f"[bold red]interrupted[/]: {len(chosen) - len(outcomes)} cases were not come to", highlight=False
        )
        raise typer.Exit(130)
    raise typer.Exit(int(any(outcome.status in (FAILED, ERROR) for outcome in outcomes)))


@app.command()
def train(
    steps: Annotated[int, typer.Option(help="Optimizer steps.", min=1)] = 500,
    device: Annotated[str, typer.Option(help="auto: the GPU if there is one, else the interpreters (tiny).")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the batches and the initial parameters.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Where to write the curves, as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Where to draw them, as PNG.")] = None,
    commit: Annotated[str | None, typer.Option(help="The commit, where the working tree has no repository.")] = None,
    fault: Annotated[str, typer.Option(help="A runner whose learning rate is to be wrong: it must be seen.")] = "",
) -> None:
    """Trains one small model in both frameworks, fused and not, from the same bytes; exit code 1 if they disagree."""
    from .train import RUNNERS, compare
    from .train import train as train_all
    from .train_model import config

    if fault not in ("", *RUNNERS):
        raise typer.BadParameter(f"fault is {fault!r}, must be one of {', '.join(RUNNERS)}")
    gpu = _gpu(device)
    name = "gpu" if gpu else "cpu"
    chosen = config(name, steps, seed)
    try:
        result = compare(train_all(name, chosen, fault), chosen)
    except RuntimeError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    result = {"schema": "parity.train/1", "environment": environment(name, gpu, commit)} | result
    if json:
        write_atomically(json, dumps(result, indent=1, allow_nan=False) + "\n")
    if plot:
        from .train_plot import plot as draw

        draw(result, plot)
    print_training(result, Console(width=None if Console().is_terminal else WIDTH))
    raise typer.Exit(int(not result["passed"]))


@app.command()
def order(
    k: Annotated[int, typer.Option(help="Summands of each GEMM.", min=1)] = 128,
    m: Annotated[int, typer.Option(help="Rows: how many there are may decide the order.", min=1)] = 64,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    precision: Annotated[str, typer.Option(help="ieee or, for float32, tf32.")] = "ieee",
    split: Annotated[int, typer.Option(help="The fused runners' accumulator chains.", min=1)] = 1,
    runner: Annotated[list[str] | None, typer.Option(help="Only this one of the runners.")] = None,
    probes: Annotated[bool, typer.Option("--probes", help="Ask what adds, too: bits kept, roundings, fma.")] = False,
    device: Annotated[str, typer.Option(help="auto: the GPU if there is one, else the interpreters.")] = "auto",
    json: Annotated[Path | None, typer.Option(help="Where to write the orders, node by node, as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Where to draw them, as PNG.")] = None,
    commit: Annotated[str | None, typer.Option(help="The commit, where the working tree has no repository.")] = None,
) -> None:
    """Finds the order in which each runner's GEMMs add, from sums alone; exit code 1 where one has no fixed order."""
    from .drift_table import print_facts
    from .order import RUNNERS, Probe, described, orders
    from .probes import probed

    unknown = set(runner or ()) - set(RUNNERS)
    if unknown:
        raise typer.BadParameter(f"runner is {unknown.pop()!r}, must be one of {', '.join(RUNNERS)}")
    try:
        probe = Probe(k=k, m=m, dtype=dtype, precision=precision, plan=Plan(split_k=split))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    _check_writable(json, plot)
    gpu = _gpu(device)
    name = "gpu" if gpu else "cpu"
    try:
        findings = list(orders(probe, specs(name), runner or tuple(RUNNERS)))
    except WorkerError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    facts = probed(probe, specs(name), findings) if probes else []
    if json:
        result = {"schema": "parity.order/1", "environment": environment(name, gpu, commit)} | described(
            probe, findings
        )
        result |= {"adders": [asdict(one) for one in facts]} if probes else {}
        write_atomically(json, dumps(result, indent=1, allow_nan=False) + "\n")
    if plot:
        from .order_plot import plot as draw

        draw(findings, plot)
    console = Console(width=None if Console().is_terminal else WIDTH)
    print_orders(findings, console)
    if probes:
        print_facts(facts, console)
    raise typer.Exit(int(any(finding.order is None for finding in findings)))


app.command()(drift)
app.command()(golden)


def main() -> None:
    """The installed ``parity`` command."""
    from . import commands  # noqa: F401 (it adds its commands to the app)

    app(prog_name="parity")


def _suite(name: str) -> list[Case]:
    if name not in SUITES:
        raise typer.BadParameter(f"suite is {name!r}, must be one of {', '.join(SUITES)}")
    return SUITES[name]()


def _named(patterns: list[str]) -> list[Case]:
    cases = known()
    found: dict[str, Case] = {}
    for pattern in patterns:
        matches = {name: case for name, case in cases.items() if name == pattern or fnmatchcase(name, pattern)}
        if not matches:
            raise typer.BadParameter(f"no case is named {pattern!r}; the known ones are\n" + "\n".join(cases))
        found |= matches
    return list(found.values())


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

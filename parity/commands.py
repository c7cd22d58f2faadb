"""More of the command line, on the app of cli.py: ``python -m parity determinism``, ``inject``, ``minimise``,
``latency``, ``tokens`` and ``report``."""

from dataclasses import replace
from fnmatch import fnmatchcase
from json import dumps
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from .ask import Ask
from .cases import Case
from .cli import _check_writable, _gpu, _named, app
from .contract.problem import Device
from .gpu import Gpu
from .process import WorkerError, specs
from .report import environment, write_atomically
from .run import Where
from .table import WIDTH

DEVICE_HELP = "auto: the GPU if there is one, else the interpreters."
# How often a plan is run, and in how many processes, unless asked otherwise.
RUNS = {"gpu": 100, "cpu": 20}
PROCESSES = {"gpu": 3, "cpu": 2}
# A large layer's first call compiles, and its arrays are written and hashed.
SECONDS = 300.0

At = Annotated[str, typer.Option("--device", help=DEVICE_HELP)]
Json = Annotated[Path | None, typer.Option(help="Where to write every number, as JSON.")]
Commit = Annotated[str | None, typer.Option(help="The commit, where the working tree has no repository.")]
Cases = Annotated[list[str] | None, typer.Option(help="A case by name, or a pattern such as 'gelu*'.")]


@app.command()
def determinism(
    case: Cases = None,
    runs: Annotated[int | None, typer.Option(help="Runs of each plan; 20 on a CPU, 100 on a GPU.", min=2)] = None,
    processes: Annotated[int | None, typer.Option(help="Fresh processes that they are spread over.", min=1)] = None,
    device: At = "auto",
    json: Json = None,
    commit: Commit = None,
) -> None:
    """Runs every plan again, in fresh processes, row by row and in other batches; exit code 1 where bits that are
    promised to be the same are not."""
    from .determinism import SCHEMA, cases
    from .determinism import determinism as battery
    from .table_tools import print_determinism

    _check_writable(json)
    gpu, name = _here(device)
    try:
        found = battery(
            _chosen(case, cases(name)),
            _where(gpu, name),
            runs=runs or RUNS[name],
            processes=processes or PROCESSES[name],
            say=_say,
        )
    except WorkerError as error:
        raise _failed(error) from None
    _write(json, SCHEMA, name, gpu, commit, found.to_dict())
    print_determinism(found, _console())
    raise typer.Exit(int(not found.passed))


@app.command()
def inject(
    case: Annotated[str, typer.Option(help="The case's name.")],
    device: At = "auto",
    json: Json = None,
    commit: Commit = None,
) -> None:
    """Feeds each fused runner's stages what the other one has computed, and says in which stage they part; exit code 1
    where one is at fault."""
    from .inject import SCHEMA, place
    from .minimise import arrays_of

    _check_writable(json)
    gpu, name = _here(device)
    (chosen,), where = _one(case), _where(gpu, name)
    _served(chosen, where)
    try:
        with Ask(where.workers, where.case_seconds) as ask:
            arrays = arrays_of(chosen, backward=False)
            found = place(chosen, arrays, ask, where.arithmetic, equal=where.twins_equal)
    except (WorkerError, RuntimeError) as error:
        raise _failed(error) from None
    _write(json, SCHEMA, name, gpu, commit, {"case": chosen.name} | found.to_dict())
    for finding in found.findings:
        typer.echo(f"{'RED' if finding.red else 'ok ':4} {finding}")
    typer.echo(str(found))
    raise typer.Exit(int(bool(found.stages)))


@app.command()
def minimise(
    case: Annotated[str, typer.Option(help="The failing case's name.")],
    out: Annotated[Path, typer.Option(help="Where to write a script that shows the failure alone.")],
    device: At = "auto",
    tries: Annotated[int, typer.Option(help="Smaller cases to try, at most.", min=1)] = 150,
) -> None:
    """Shrinks a failing case and writes a script that stands alone; exit code 1 as it fails, 0 if it does not."""
    from .inject import place
    from .minimise import arrays_of
    from .minimise import minimise as shrink
    from .repro import write

    _check_writable(out)
    gpu, name = _here(device)
    (chosen,), where = _one(case), _where(gpu, name)
    _served(chosen, where)
    try:
        with Ask(where.workers, where.case_seconds) as ask:
            least = shrink(chosen, where, ask, tries=tries, say=_say)
            if least is None:
                typer.echo(f"{chosen.name} does not fail here")
                return
            arrays = arrays_of(least.case, backward=False)
            try:
                placed = str(place(least.case, arrays, ask, where.arithmetic, equal=where.twins_equal))
            except (WorkerError, RuntimeError) as error:
                placed = f"not placed: {error}"
    except WorkerError as error:
        raise _failed(error) from None
    written = write(out, least.case, arrays, f"{least}: {placed}", where.arithmetic, equal=where.twins_equal)
    typer.echo(f"{least}\n{placed}\nafter {least.tries} tries; {', '.join(map(str, written))}")
    raise typer.Exit(1)


@app.command()
def latency(
    case: Cases = None,
    blocks: Annotated[int, typer.Option(help="How often the workers take turns.", min=2)] = 8,
    device: At = "auto",
    json: Json = None,
    commit: Commit = None,
) -> None:
    """Times the twins and their frameworks' own MLPs on the same device, in turns; exit code 1 where a result is
    wrong."""
    from .latency import SCHEMA, cases
    from .latency import latency as measure
    from .table_tools import print_latency

    _check_writable(json)
    gpu, name = _here(device)
    where = replace(_where(gpu, name), workers=specs(name, "latency"))
    try:
        rows = measure(_chosen(case, cases(name)), where, blocks=blocks, say=_say)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    except WorkerError as error:
        raise _failed(error) from None
    _write(json, SCHEMA, name, gpu, commit, {"blocks": blocks, "rows": [row.to_dict() for row in rows]})
    print_latency(rows, _console())
    raise typer.Exit(int(any(row.wrong for row in rows)))


@app.command()
def tokens(
    steps: Annotated[int | None, typer.Option(help="Characters to decode; 16 on a CPU, 256 on a GPU.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the weights and the prompts.")] = 0,
    device: At = "auto",
    json: Json = None,
    commit: Commit = None,
    fault: Annotated[str, typer.Option(help="A runner whose MLPs are to be wrong: it must be seen.")] = "",
) -> None:
    """Decodes one language model by four runners, fused and not, in two depths; exit code 1 where they are further
    apart than rounding drives them."""
    from .table_tools import print_tokens
    from .tokens import RUNNERS, SCHEMA
    from .tokens import tokens as decode

    if fault not in ("", *RUNNERS):
        raise typer.BadParameter(f"fault is {fault!r}, must be one of {', '.join(RUNNERS)}")
    _check_writable(json)
    gpu, name = _here(device)
    try:
        found = decode(name, steps=steps, seed=seed, fault=fault)
    except RuntimeError as error:
        raise _failed(error) from None
    _write(json, SCHEMA, name, gpu, commit, found)
    print_tokens(found, _console())
    raise typer.Exit(int(not found["passed"]))


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="Where to write the page.")],
    folder: Annotated[Path, typer.Option(help="Where the commands wrote their JSON (and PNG).")] = Path("out"),
) -> None:
    """Makes one page that needs nothing else of whatever JSON a folder has; exit code 1 where some of it is red."""
    from .page import collect, headlines, page

    _check_writable(out)
    try:
        content = collect(folder)
    except FileNotFoundError as error:
        raise typer.BadParameter(str(error)) from None
    write_atomically(out, page(content))
    for headline in headlines(content):
        typer.echo(f"{'ok ' if headline.good else 'RED'} {headline.name}: {headline.text}")
    raise typer.Exit(int(not all(headline.good for headline in headlines(content))))


def _chosen(patterns: list[str] | None, own: list[Case]) -> list[Case]:
    """A command's ``own`` cases, those of them that are named, or what else is known by that name."""
    if not patterns:
        return own
    return [case for case in own if any(fnmatchcase(case.name, pattern) for pattern in patterns)] or _named(patterns)


def _one(name: str) -> list[Case]:
    found = _named([name])
    if len(found) > 1:
        raise typer.BadParameter(f"{name!r} are {len(found)} cases, must be one")
    return found


def _served(case: Case, where: Where) -> None:
    reason = case.skip_reason(where.device)
    if reason or case.stimulus == "special":
        raise typer.BadParameter(reason or f"{case.name} makes the round trip only: nothing is computed")


def _here(device: str) -> tuple[Gpu | None, Literal["gpu", "cpu"]]:
    gpu = _gpu(device)
    return gpu, "gpu" if gpu else "cpu"


def _where(gpu: Gpu | None, name: Literal["gpu", "cpu"]) -> Where:
    device = gpu.device if gpu else Device(kind="interpreter")
    return Where(device=device, workers=specs(name), case_seconds=SECONDS)


def _write(path: Path | None, schema: str, name: str, gpu: Gpu | None, commit: str | None, found: dict) -> None:
    if path:
        content = {"schema": schema, "environment": environment(name, gpu, commit)} | found
        write_atomically(path, dumps(content, indent=1, allow_nan=False) + "\n")


def _failed(error: Exception) -> typer.Exit:
    typer.echo(str(error), err=True)
    return typer.Exit(1)


def _console() -> Console:
    return Console(width=None if Console().is_terminal else WIDTH)


def _say(text: str) -> None:
    typer.echo(text, err=True)

"""More of the command line, on the app of cli.py: ``python -m parity determinism``, ``inject``, ``minimise``,
``latency``, ``tokens`` and ``report``."""

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

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
            _named(case) if case else cases(name),
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


def _here(device: str) -> tuple[Gpu | None, str]:
    gpu = _gpu(device)
    return gpu, "gpu" if gpu else "cpu"


def _where(gpu: Gpu | None, name: Any) -> Where:
    device = gpu.device if gpu else Device(kind="interpreter")
    return Where(device=device, workers=specs(name), case_seconds=SECONDS)


def _write(path: Path | None, schema: str, name: str, gpu: Gpu | None, commit: str | None, found: dict) -> None:
    if path:
        content = {"schema": schema, "environment": environment(name, gpu, commit)} | found
        write_atomically(path, dumps(content, indent=1, allow_nan=False) + "\n")


def _failed(error: WorkerError) -> typer.Exit:
    typer.echo(str(error), err=True)
    return typer.Exit(1)


def _console() -> Console:
    return Console(width=None if Console().is_terminal else WIDTH)


def _say(text: str) -> None:
    typer.echo(text, err=True)

"""What the commands share: options, the machine they run on, the files they write, how they end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from . import report
from .cases import Case, known
from .contract import problem
from .gpu import Gpu, find_gpu
from .process import specs
from .run import Where
from .table import WIDTH

DEVICES = ("auto", "cpu", "gpu")
# A large layer's first call compiles, and its arrays are written and hashed.
SECONDS = 300.0

Device = Annotated[str, typer.Option(help="auto: the GPU if there is one, else the interpreters.")]
Json = Annotated[Path | None, typer.Option(help="Where to write every number, as JSON.")]
Commit = Annotated[str | None, typer.Option(help="The commit, where the working tree has no repository.")]
Cases = Annotated[list[str] | None, typer.Option(help="A case by name, or a pattern such as 'gelu*'.")]
Dtype = Annotated[str, typer.Option(help="float32, float16 or bfloat16.")]
Precision = Annotated[str, typer.Option(help="ieee or, for float32, tf32.")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Here:
    """The machine: its GPU, unless there is none or the CPU was asked for."""

    gpu: Gpu | None

    @property
    def name(self) -> Literal["gpu", "cpu"]:
        return "gpu" if self.gpu else "cpu"

    def where(self, kind: str = "worker") -> Where:
        """It and its workers of a ``kind``."""
        device = self.gpu.device if self.gpu else problem.Device(kind="interpreter")
        return Where(device=device, workers=specs(self.name, kind), case_seconds=SECONDS)

    def facts(self, commit: str | None) -> dict[str, Any]:
        return report.environment(self.name, self.gpu, commit)


def here(device: str) -> Here:
    """The machine that ``--device`` means. Raises BadParameter if it is not there."""
    if device not in DEVICES:
        raise typer.BadParameter(f"device is {device!r}, must be one of {', '.join(DEVICES)}")
    gpu = None if device == "cpu" else find_gpu()
    if device == "gpu" and gpu is None:
        raise typer.BadParameter("device is 'gpu', but the NVIDIA driver shows none here; use 'cpu' or 'auto'")
    return Here(gpu=gpu)


def among(what: str, given: Sequence[str] | None, allowed: Sequence[str]) -> None:
    """Raises BadParameter unless each of ``given`` is ``allowed``."""
    for one in given or ():
        if one not in allowed:
            raise typer.BadParameter(f"{what} is {one!r}, must be one of {', '.join(allowed)}")


def named(patterns: Sequence[str]) -> list[Case]:
    """The cases of every suite that the patterns name. Raises BadParameter where one names none."""
    cases = known()
    found: dict[str, Case] = {}
    for pattern in patterns:
        matches = {name: case for name, case in cases.items() if name == pattern or fnmatchcase(name, pattern)}
        if not matches:
            raise typer.BadParameter(f"no case is named {pattern!r}; the known ones are\n" + "\n".join(cases))
        found |= matches
    return list(found.values())


def chosen(patterns: Sequence[str] | None, own: list[Case]) -> list[Case]:
    """A command's ``own`` cases, those of them that are named, or what else is known by that name."""
    if not patterns:
        return own
    return [case for case in own if any(fnmatchcase(case.name, pattern) for pattern in patterns)] or named(patterns)


def check_writable(*paths: Path | None) -> None:
    for path in filter(None, paths):
        try:
            report.check_writable(path)
        except OSError as error:
            raise typer.BadParameter(f"cannot write {path}: {error}") from None


def write(path: Path | None, schema: str, facts: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """A command's JSON, if it is asked for."""
    if path:
        whole = {"schema": schema, "environment": facts, **content}
        report.write_atomically(path, dumps(whole, indent=1, allow_nan=False) + "\n")


def console() -> Console:
    """Standard output; where it is no terminal, it is as wide as the tables."""
    return Console(width=None if Console().is_terminal else WIDTH)


def say(text: str) -> None:
    """What is going on, beside the results."""
    typer.echo(text, err=True)


def failed(error: Exception) -> typer.Exit:
    """The end of a command that could not finish."""
    say(str(error))
    return typer.Exit(1)

"""The commands that replay bits: ``python -m parity golden``."""

import os
from contextlib import ExitStack
from json import dumps
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .contract.problem import Device
from .options import check_writable, gpu
from .process import specs
from .report import environment, write_atomically

# A console that is no terminal is as wide as the tables.
WIDTH = 100

Where = Annotated[str, typer.Option(help="auto: the GPU if there is one, else the interpreters.")]
Commit = Annotated[str | None, typer.Option(help="The commit, where the working tree has no repository.")]


def golden(
    out: Annotated[Path | None, typer.Option(help="A folder for golden.npz (vectors) and golden.json.")] = None,
    check: Annotated[list[Path] | None, typer.Option(help="Only check this file's vectors; needs no GPU.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only the vectors, not a million outputs a backend.")] = False,
    device: Where = "auto",
    commit: Commit = None,
) -> None:
    """Holds real kernels' outputs against the bit-exact emulator of a tensor core, and keeps small ones as vectors.

    Exit code 1 where any bit differs (the interpreters' do: their GEMMs add in the order of their CPU's library).
    """
    from .drift_table import print_check, print_checks
    from .golden import Check, capture, described, large, recheck, save, small
    from .golden import check as check_all
    from .session import Session

    console = Console(width=None if Console().is_terminal else WIDTH)
    checks = [found for path in check or () for found in recheck(path)]

    def show(found: Check) -> None:
        checks.append(found)
        print_check(found, console)

    if not check:
        if out:
            out.mkdir(parents=True, exist_ok=True)
            check_writable(out / "golden.npz", out / "golden.json")
        found = gpu(device)
        name = "gpu" if found else "cpu"
        where = found.device if found else Device(kind="interpreter")
        cores = os.cpu_count() or 1
        with ExitStack() as stack:
            # Kernels are compiled on the host: on a GPU's, several workers do that side by side.
            lanes = max(1, min(4, cores // 4)) if found else 1
            sessions = [stack.enter_context(Session(specs(name))) for _ in range(lanes)]
            vectors = capture(sessions, small(where), checks.append)
            if out:
                save(vectors, out / "golden.npz")
            items = [] if quick else large(where)
            if items:
                check_all(sessions, items, show, max(1, min(8, cores // 2)))
            if out:
                facts = environment(name, found, commit) | {"workers": sessions[0].greetings}
                result = {"schema": "parity.golden/1", "environment": facts}
                result |= {"checks": [described(check) for check in checks]}
                write_atomically(out / "golden.json", dumps(result, indent=1, allow_nan=False) + "\n")
    print_checks(checks, console)
    raise typer.Exit(int(any(check.red for check in checks)))

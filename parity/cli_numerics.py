"""The commands that replay bits: ``python -m parity drift`` and ``golden``."""

import os
from contextlib import ExitStack
from json import dumps
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .contract.problem import Device, Problem
from .options import check_writable, gpu
from .process import specs
from .report import environment, write_atomically

# A console that is no terminal is as wide as the tables.
WIDTH = 100

Where = Annotated[str, typer.Option(help="auto: the GPU if there is one, else the interpreters.")]
Commit = Annotated[str | None, typer.Option(help="The commit, where the working tree has no repository.")]


def drift(
    k: Annotated[int, typer.Option(help="Summands of the first GEMM.", min=1)] = 96,
    hidden: Annotated[int, typer.Option(help="Hidden features: summands of the second.", min=1)] = 64,
    n: Annotated[int, typer.Option(help="Out features.", min=1)] = 48,
    m: Annotated[int, typer.Option(help="Rows.", min=1)] = 32,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float16",
    precision: Annotated[str, typer.Option(help="ieee or, for float32, tf32.")] = "ieee",
    activation: Annotated[str, typer.Option(help="relu, relu2 and identity are emulated to the bit.")] = "relu",
    gated: Annotated[bool, typer.Option("--gated", help="With a gate.")] = False,
    runner: Annotated[list[str] | None, typer.Option(help="Only these of the runners.")] = None,
    length: Annotated[list[int] | None, typer.Option(help="Sums along which errors are followed.")] = None,
    depth: Annotated[int, typer.Option(help="Layers of the stack.", min=0)] = 8,
    device: Where = "auto",
    json: Annotated[Path | None, typer.Option(help="Where to write every number, as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Where to draw knobs and growth, as PNG.")] = None,
    commit: Commit = None,
) -> None:
    """Says which bits runners differ in and which knob makes each of them differ: the order of summation, fma, the
    activation's spelling, the roundings of s and h, the place of the bias, tf32, tensor core or IEEE.

    Exit code 1 where a runner fails or, on a GPU, the twins differ or have bits that the emulator does not give.
    """
    from .drift_report import Ask, report
    from .drift_table import print_drift
    from .order import RUNNERS
    from .session import Session

    unknown = set(runner or ()) - set(RUNNERS)
    if unknown:
        raise typer.BadParameter(f"runner is {unknown.pop()!r}, must be one of {', '.join(RUNNERS)}")
    try:
        problem = Problem(
            m=m, in_features=k, hidden_features=hidden, out_features=n, activation=activation, gated=gated,
            bias_up=True, bias_gate=gated, bias_down=True, dtype=dtype, precision=precision,
        )  # fmt: skip
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    check_writable(json, plot)
    found = gpu(device)
    name = "gpu" if found else "cpu"
    ask = Ask(
        problem=problem,
        tensor=bool(found),
        runners=runner or tuple(RUNNERS),
        lengths=tuple(length or ((64, 256, 1024, 4096) if found else (32, 64, 128, 256))),
        depth=depth,
    )
    with Session(specs(name)) as session:
        result = report(session, ask)
        facts = environment(name, found, commit) | {"workers": session.greetings}
    result = {"schema": "parity.drift/1", "environment": facts} | result
    if json:
        write_atomically(json, dumps(result, indent=1, allow_nan=False) + "\n")
    if plot:
        from .drift_plot import plot as draw

        draw(result, plot)
    print_drift(result, Console(width=None if Console().is_terminal else WIDTH))
    raise typer.Exit(int(bool(result["reasons"])))


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

"""``python -m parity train``, ``tokens`` and ``latency``: what a user would notice of the twins' differences."""

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .options import Cases, Commit, Device, Json


def train(
    steps: Annotated[int, typer.Option(help="Optimizer steps.", min=1)] = 500,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Of the batches and the initial parameters.")] = 0,
    json: Json = None,
    plot: Annotated[Path | None, typer.Option(help="Where to draw the curves, as PNG.")] = None,
    commit: Commit = None,
    fault: Annotated[str, typer.Option(help="A runner whose learning rate is to be wrong: it must be seen.")] = "",
) -> None:
    """Trains one small model in both frameworks, fused and not, from the same bytes; exit code 1 if they disagree."""
    from .table import print_training
    from .train import RUNNERS, SCHEMA, compare
    from .train import train as train_all
    from .train_model import config

    options.among("fault", [fault] if fault else None, RUNNERS)
    options.check_writable(json, plot)
    here = options.here(device)
    chosen = config(here.name, steps, seed)
    try:
        result = compare(train_all(here.name, chosen, fault), chosen)
    except RuntimeError as error:
        raise options.failed(error) from None
    options.write(json, SCHEMA, here.facts(commit), result)
    if plot:
        from .train_plot import plot as draw

        draw(result, plot)
    print_training(result, options.console())
    raise typer.Exit(int(not result["passed"]))


def tokens(
    steps: Annotated[int | None, typer.Option(help="Characters to decode; 16 on a CPU, 256 on a GPU.", min=1)] = None,
    depth: Annotated[list[int] | None, typer.Option(help="Its blocks; 1 and 3 on a CPU, 4 and 16 on a GPU.")] = None,
    seed: Annotated[int, typer.Option(help="Of the weights and the prompts.")] = 0,
    device: Device = "auto",
    json: Json = None,
    commit: Commit = None,
    fault: Annotated[str, typer.Option(help="A runner whose MLPs are to be wrong: it must be seen.")] = "",
) -> None:
    """Decodes one language model by four runners, fused and not, in each depth; exit code 1 where they are further
    apart than rounding drives them."""
    from .table_tools import print_tokens
    from .tokens import RUNNERS, SCHEMA
    from .tokens import tokens as decode

    options.among("fault", [fault] if fault else None, RUNNERS)
    if min(depth or [1]) < 1:
        raise typer.BadParameter(f"depth is {min(depth or [])}, must be at least 1")
    options.check_writable(json)
    here = options.here(device)
    try:
        found = decode(here.name, depths=tuple(dict.fromkeys(depth or ())), steps=steps, seed=seed, fault=fault)
    except RuntimeError as error:
        raise options.failed(error) from None
    options.write(json, SCHEMA, here.facts(commit), found)
    print_tokens(found, options.console())
    raise typer.Exit(int(not found["passed"]))


def latency(
    case: Cases = None,
    blocks: Annotated[int, typer.Option(help="How often the workers take turns.", min=2)] = 8,
    device: Device = "auto",
    json: Json = None,
    commit: Commit = None,
) -> None:
    """Times the twins and their frameworks' own MLPs on the same device, in turns; exit code 1 where a result is
    wrong."""
    from .latency import SCHEMA, cases
    from .latency import latency as measure
    from .table_tools import print_latency

    options.check_writable(json)
    here = options.here(device)
    try:
        rows = measure(options.chosen(case, cases(here.name)), here.where("latency"), blocks=blocks, say=options.say)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    options.write(json, SCHEMA, here.facts(commit), {"blocks": blocks, "rows": [row.to_dict() for row in rows]})
    print_latency(rows, options.console())
    raise typer.Exit(int(any(row.wrong for row in rows)))

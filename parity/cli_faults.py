"""``python -m parity determinism``, ``inject`` and ``minimise``: bits that change, and where a fault is."""

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .cases import Case
from .options import Cases, Commit, Device, Json
from .run import Where
from .session import Session

# How often a plan is run, and in how many processes, unless asked otherwise.
RUNS = {"gpu": 100, "cpu": 20}
PROCESSES = {"gpu": 3, "cpu": 2}


def determinism(
    case: Cases = None,
    runs: Annotated[int | None, typer.Option(help="Runs of each plan; 20 on a CPU, 100 on a GPU.", min=2)] = None,
    processes: Annotated[int | None, typer.Option(help="Fresh processes that they are spread over.", min=1)] = None,
    plan: Annotated[list[str] | None, typer.Option(help="Only this plan, as the table names it.")] = None,
    device: Device = "auto",
    json: Json = None,
    commit: Commit = None,
) -> None:
    """Runs every plan again, in fresh processes, row by row and in other batches; exit code 1 where bits that are
    promised to be the same are not."""
    from .determinism import KNOWN, SCHEMA, UNFUSED, cases, plans
    from .determinism import determinism as battery
    from .table_tools import print_determinism

    options.among("plan", plan, [*KNOWN, UNFUSED])
    options.check_writable(json)
    here = options.here(device)
    where, chosen = here.where(), options.chosen(case, cases(here.name))
    for one in chosen:
        served = plans(one.problem, where)
        if not served:
            raise typer.BadParameter(f"{one.name}: no plan can run it here")
        for name in {*(plan or ())} - {*served, UNFUSED}:
            raise typer.BadParameter(f"{one.name}: plan {name} cannot run it here")
    found = battery(
        chosen,
        where,
        runs=runs or RUNS[here.name],
        processes=processes or PROCESSES[here.name],
        only=plan or (),
        say=options.say,
    )
    options.write(json, SCHEMA, here.facts(commit), found.to_dict())
    print_determinism(found, options.console())
    raise typer.Exit(int(not found.passed))


def inject(
    case: Annotated[str, typer.Option(help="The case's name.")],
    device: Device = "auto",
    json: Json = None,
    commit: Commit = None,
) -> None:
    """Feeds each fused runner's stages what the other one has computed, and says in which stage they part; exit code 1
    where one is at fault."""
    from .inject import SCHEMA, place
    from .minimise import arrays_of

    options.check_writable(json)
    here = options.here(device)
    where = here.where()
    chosen = _one(case, where)
    try:
        with Session(where.workers, where.case_seconds) as session:
            arrays = arrays_of(chosen, backward=False)
            found = place(chosen, arrays, session, where.arithmetic, equal=where.twins_equal)
    except RuntimeError as error:
        raise options.failed(error) from None
    options.write(json, SCHEMA, here.facts(commit), {"case": chosen.name} | found.to_dict())
    for finding in found.findings:
        typer.echo(f"{'RED' if finding.red else 'ok ':4} {finding}")
    typer.echo(str(found))
    raise typer.Exit(int(bool(found.stages)))


def minimise(
    case: Annotated[str, typer.Option(help="The failing case's name.")],
    out: Annotated[Path, typer.Option(help="Where to write a script that shows the failure alone.")],
    device: Device = "auto",
    tries: Annotated[int, typer.Option(help="Smaller cases to try, at most.", min=1)] = 150,
) -> None:
    """Shrinks a case whose forward or gradients fail and writes a script that stands alone; exit code 1 as it fails, 0
    if it does not."""
    from .inject import place
    from .minimise import arrays_of
    from .minimise import minimise as shrink
    from .repro import write

    options.check_writable(out)
    where = options.here(device).where()
    chosen = _one(case, where)
    with Session(where.workers, where.case_seconds) as session:
        least = shrink(chosen, where, session, tries=tries, say=options.say)
        if least is None:
            typer.echo(f"{chosen.name} does not fail here")
            return
        arrays = arrays_of(least.case, backward=least.backward)
        placed = least.failing
        if not least.backward:
            try:
                placed = str(place(least.case, arrays, session, where.arithmetic, equal=where.twins_equal))
            except RuntimeError as error:
                placed = f"not placed: {error}"
    written = write(out, least.case, arrays, f"{least}: {placed}", where.arithmetic, equal=where.twins_equal)
    typer.echo(f"{least}\n{placed}\nafter {least.tries} tries; {', '.join(map(str, written))}")
    raise typer.Exit(1)


def _one(name: str, where: Where) -> Case:
    """The case of that name, of which there must be one, and which must compute something here."""
    found = options.named([name])
    if len(found) > 1:
        raise typer.BadParameter(f"{name!r} are {len(found)} cases, must be one")
    reason = found[0].skip_reason(where.device)
    if reason or found[0].stimulus == "special":
        raise typer.BadParameter(reason or f"{name} makes the round trip only: nothing is computed")
    return found[0]

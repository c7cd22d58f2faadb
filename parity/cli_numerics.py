"""``python -m parity order``, ``drift``, ``golden`` and ``vendor``: how sums are added, and bits replayed."""

import os
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .contract.plan import Plan
from .contract.problem import Problem
from .options import Commit, Device, Dtype, Json, Precision

Runners = Annotated[list[str] | None, typer.Option("--runner", help="Only these of the runners.")]


def order(
    k: Annotated[int, typer.Option(help="Summands of each GEMM.", min=1)] = 128,
    m: Annotated[int, typer.Option(help="Rows: how many there are may decide the order.", min=1)] = 64,
    dtype: Dtype = "float32",
    precision: Precision = "ieee",
    split: Annotated[int, typer.Option(help="The fused runners' accumulator chains.", min=1)] = 1,
    runner: Runners = None,
    probes: Annotated[bool, typer.Option("--probes", help="Ask what adds, too: bits kept, roundings, fma.")] = False,
    device: Device = "auto",
    json: Json = None,
    plot: Annotated[Path | None, typer.Option(help="Where to draw the orders, as PNG.")] = None,
    commit: Commit = None,
) -> None:
    """Finds the order in which each runner's GEMMs add, from sums alone; exit code 1 where one has no fixed order."""
    from .drift_table import print_facts
    from .order import SCHEMA, Probe, described, orders
    from .probes import facts_of
    from .session import RUNNERS, Session
    from .table import print_orders

    options.among("runner", runner, list(RUNNERS))
    try:
        probe = Probe(k=k, m=m, dtype=dtype, precision=precision, plan=Plan(split_k=split))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    options.check_writable(json, plot)
    here = options.here(device)
    where = here.where()
    with Session(where.workers, where.case_seconds) as session:
        found = list(orders(session, probe, runner or tuple(RUNNERS)))
        firsts = {one.runner: one.order for one in found if one.gemm == "up" and one.order}
        facts = list(facts_of(session, probe, firsts)) if probes else []
    adders = {"adders": [asdict(one) for one in facts]} if probes else {}
    options.write(json, SCHEMA, here.facts(commit), described(probe, found) | adders)
    if plot:
        from .order_plot import plot as draw

        draw(found, plot)
    console = options.console()
    print_orders(found, console)
    if probes:
        print_facts(facts, console)
    raise typer.Exit(int(any(one.order is None for one in found)))


def drift(
    k: Annotated[int, typer.Option(help="Summands of the first GEMM.", min=1)] = 96,
    hidden: Annotated[int, typer.Option(help="Hidden features: summands of the second.", min=1)] = 64,
    n: Annotated[int, typer.Option(help="Out features.", min=1)] = 48,
    m: Annotated[int, typer.Option(help="Rows.", min=1)] = 32,
    dtype: Dtype = "float16",
    precision: Precision = "ieee",
    activation: Annotated[str, typer.Option(help="relu, relu2 and identity are emulated to the bit.")] = "relu",
    gated: Annotated[bool, typer.Option("--gated", help="With a gate.")] = False,
    every_type: Annotated[bool, typer.Option("--every-type", help="Each that is served here, one by one.")] = False,
    runner: Runners = None,
    length: Annotated[list[int] | None, typer.Option(help="Sums along which errors are followed.")] = None,
    depth: Annotated[int, typer.Option(help="Layers of the stack.", min=0)] = 8,
    device: Device = "auto",
    json: Json = None,
    plot: Annotated[Path | None, typer.Option(help="Where to draw knobs and growth, as PNG.")] = None,
    commit: Commit = None,
) -> None:
    """Says which bits runners differ in and which knob makes each of them differ: the order of summation, fma, the
    activation's spelling, the roundings of s and h, the place of the bias, tf32, tensor core or IEEE.

    Exit code 1 where a runner fails, has bits that the emulator does not give, or does not as predicted when its knob
    is turned, or where, on a GPU, the twins differ. Where an order cannot be found, it says why.
    """
    from .contract.choice import limitation
    from .drift_report import SCHEMA, Asked, report
    from .drift_table import kind, print_drift, print_drifts
    from .golden import DTYPES
    from .session import RUNNERS, Session

    options.among("runner", runner, list(RUNNERS))
    try:
        given = Problem(
            m=m, in_features=k, hidden_features=hidden, out_features=n, activation=activation, gated=gated,
            bias_up=True, bias_gate=gated, bias_down=True, dtype=dtype, precision=precision,
        )  # fmt: skip
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if every_type and plot:
        raise typer.BadParameter("a picture is of one type: drop --plot or --every-type")
    options.check_writable(json, plot)
    here = options.here(device)
    where = here.where()
    problems = [given]
    if every_type:
        each = (replace(given, dtype=dtype, precision=precision) for dtype, precision in DTYPES)
        problems = [one for one in each if limitation(one, where.device, Plan()) is None]
    lengths = tuple(length or ((64, 512, 4096) if here.gpu else (32, 64, 128, 256)))
    with Session(where.workers, where.case_seconds) as session:
        results = [
            report(
                session,
                Asked(
                    problem=problem,
                    tensor=bool(here.gpu),
                    runners=runner or tuple(RUNNERS),
                    lengths=lengths,
                    depth=depth,
                ),
            )
            for problem in problems
        ]
        facts = here.facts(commit) | {"workers": session.greetings}
    reasons = [f"{kind(result)}: {reason}" for result in results for reason in result["reasons"]]
    options.write(json, SCHEMA, facts, {"drifts": results, "reasons": reasons})
    if plot:
        from .drift_plot import plot as draw

        draw(results[0], plot)
    if every_type:
        print_drifts(results, options.console())
    else:
        print_drift(results[0], options.console())
    raise typer.Exit(int(bool(reasons)))


def golden(
    out: Annotated[Path | None, typer.Option(help="A folder for golden.npz (vectors) and golden.json.")] = None,
    check: Annotated[
        list[Path] | None,
        typer.Option(help="Only check this file's vectors; needs no GPU.", exists=True, dir_okay=False),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only the vectors, not a million outputs a backend.")] = False,
    device: Device = "auto",
    commit: Commit = None,
) -> None:
    """Holds real kernels' outputs against the bit-exact emulator of a tensor core, and keeps small ones as vectors.

    Exit code 1 where any bit differs (the interpreters' do: their GEMMs add in the order of their CPU's library).
    """
    from .adder import EMULATED
    from .drift_table import print_prediction, print_predictions
    from .golden import SCHEMA, Prediction, capture, described, large, recheck, save, small
    from .golden import check as check_all
    from .session import Session

    if check and (out or quick):
        raise typer.BadParameter("a check of files writes none and asks no kernel: drop --out and --quick")
    console = options.console()
    checks = [found for path in check or () for found in recheck(path)]

    def show(found: Prediction) -> None:
        checks.append(found)
        print_prediction(found, console)

    if not check:
        if out:
            out.mkdir(parents=True, exist_ok=True)
            options.check_writable(out / "golden.npz", out / "golden.json")
        here = options.here(device)
        if here.gpu and here.gpu.device.capability != EMULATED:
            raise typer.BadParameter(
                f"the emulator adds as compute capability 9.0 does, {here.gpu.device.name} does not"
            )
        where = here.where()
        cores = os.cpu_count() or 1
        with ExitStack() as stack:
            # Kernels are compiled on the host: on a GPU's, several workers do that side by side.
            lanes = max(1, min(4, cores // 4)) if here.gpu else 1
            sessions = [stack.enter_context(Session(where.workers, where.case_seconds)) for _ in range(lanes)]
            vectors = capture(sessions, small(where.device), checks.append)
            if out:
                save(vectors, out / "golden.npz")
            items = [] if quick else large(where.device)
            if items:
                check_all(sessions, items, show, max(1, min(8, cores // 2)))
            if out:
                facts = here.facts(commit) | {"workers": sessions[0].greetings}
                content = {"checks": [described(check) for check in checks]}
                options.write(out / "golden.json", SCHEMA, facts, content)
    print_predictions(checks, console)
    raise typer.Exit(int(any(check.red for check in checks)))


def vendor(
    workloads: Annotated[Path, typer.Option(help="A file of MLPs, such as bench/workloads.json.", exists=True)],
    merge: Annotated[bool, typer.Option("--merge", help="Keep the orders, for plans of the vendor's order.")] = False,
    json: Json = None,
    commit: Commit = None,
) -> None:
    """Recovers the order in which the GEMMs of torch's eager MLP add, and runs both twins in it: every bit of y must be
    eager's. Needs a GPU.

    Exit code 1 where the order of both GEMMs is known, and a bit differs; where an order that is on record is not
    recovered, or a 16-bit layer's could not be asked for; and where no MLP is promised. Then nothing is merged.
    """
    from .contract.vendor import FILE
    from .drift_table import print_vendor
    from .process import Worker
    from .report import write_atomically
    from .vendor import (
        SCHEMA,
        Lanes,
        described,
        layers,
        merged,
        mlps,
        orders,
        problems,
        reasons,
        recorded,
        recover,
        replay,
    )

    options.check_writable(json)
    here = options.here("gpu")
    assert here.gpu
    console, asked = options.console(), problems(workloads)
    # Kernels are compiled on the host, side by side.
    lanes = max(1, min(6, (os.cpu_count() or 1) // 2))
    with Lanes([[Worker(spec) for spec in here.where("vendor").workers] for _ in range(lanes)]) as workers:
        found = []
        for one in recover(workers, layers(asked)):
            found.append(one)
            if one.chains is None:
                options.say(f"{one.layer} at {one.m} rows: {one.why or 'in no order that was tried'}")
        build = workers.greetings["torch"].get("vendor", "")
        record = recorded(here.gpu.device.name, build)
        replays = []
        for one in replay(workers, mlps(asked, orders(found, record))):
            replays.append(one)
            options.say(f"{'RED' if one.red else 'ok'} {one}{one.why and f': {one.why}'}")
        facts = here.facts(commit) | {"workers": workers.greetings}
    red = reasons(found, replays, record)
    options.write(json, SCHEMA, facts, described(found, replays, red))
    print_vendor(found, replays, red, console)
    if merge and red:
        options.say(f"nothing is merged into {FILE.name}: of {len(red)} reasons the first is {red[0]}")
    elif merge:
        write_atomically(FILE, merged(found, here.gpu.device.name, build))
    raise typer.Exit(int(bool(red)))

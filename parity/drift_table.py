"""Replays and drift as text: 100 columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .golden import Prediction
from .probes import Facts
from .table import headed
from .vendor import Recovered, Replay


def print_prediction(check: Prediction, console: Console) -> None:
    """One check in a line: how many bits of each stage were predicted."""
    parts = [f"{stage} {total - check.wrong[stage]}/{total}" for stage, total in check.outputs.items()]
    text = "[red]error[/] " + escape(check.why) if check.why else ", ".join(parts)
    color = "red" if check.red else "green"
    console.print(f"[{color}]{check.runner}[/] {escape(str(check.item))}: {text}", highlight=False, soft_wrap=True)


def print_predictions(checks: Sequence[Prediction], console: Console) -> None:
    """What is red, and the sums."""
    red = [check for check in checks if check.red]
    for check in red[:12]:
        print_prediction(check, console)
    outputs = sum(sum(check.outputs.values()) for check in checks)
    wrong = sum(sum(check.wrong.values()) for check in checks)
    text = f"{len(checks)} checks, {len(red)} red; {outputs - wrong} of {outputs} outputs predicted to the bit"
    console.print(f"[{'bold red' if red else 'green'}]{text}[/]", highlight=False)


def print_drifts(results: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Several types in few lines: each runner's recipe, how many elements it does not explain, and in how many a knob
    that was turned did not as predicted."""
    table = headed("", "runner", "unexplained", "mispredicted", "how it adds, first GEMM / second")
    for result in results:
        title = kind(result)
        for one in result["portraits"]:
            wrong = _count(sum(one["wrong"].values()), sum(one["total"].values()))
            missed = [turn["missed"][one["runner"]] for turn in result["knobs"] if one["runner"] in turn["missed"]]
            off = sum(sum(counts.values()) for counts in missed)
            table.add_row(title, one["runner"], wrong, str(off) if missed else "", escape(_adds(one)))
            title = ""
    console.print(table, highlight=False)
    for result in results:
        for reason in result["reasons"]:
            console.print(f"[bold red]RED[/] {kind(result)} {escape(reason)}", highlight=False, soft_wrap=True)
        _print_unknown(result, console)


def print_drift(result: Mapping[str, Any], console: Console) -> None:
    """Recipes, pairs, knobs, replays; growth is for the plot."""
    for runner, why in result["errors"].items():
        console.print(f"[red]{runner}[/] {escape(why)}", highlight=False)
    stages = list(result["portraits"][0]["total"]) if result["portraits"] else []
    table = headed("runner", *(f"{stage} unexplained" for stage in stages), "how it adds, first GEMM / second")
    for one in result["portraits"]:
        wrong = (_count(one["wrong"][stage], one["total"][stage]) for stage in stages)
        table.add_row(one["runner"], *wrong, escape(_adds(one)))
    console.print(table, highlight=False)
    _print_unknown(result, console)
    table = headed("pair", "", "knob", "alone", "left", "differ", "unexplained")
    for one in result["pairs"]:
        _pair(one, table)
    console.print("\nWhat makes runners differ, stage by stage: elements that turning a knob sets right")
    console.print(table, highlight=False)
    table = headed("knob", "setting", *stages, "observed", "mispredicted")
    for turn in result["knobs"]:
        cells = (_count(turn["changed"][stage], turn["total"][stage], ok="default") for stage in stages)
        seen = ", ".join({" ".join(map(str, counts.values())): "" for counts in turn["observed"].values()})
        missed = "" if not turn["missed"] else str(sum(sum(counts.values()) for counts in turn["missed"].values()))
        table.add_row(turn["knob"], turn["setting"], *cells, seen, missed)
    console.print("\nOne knob turned, all others as they were: elements with other bits")
    console.print(table, highlight=False)
    for one in result["replays"]:
        splits = one["split_k"]
        text = f"no split_k of {one['fused']} adds as {one['runner']} does"
        if splits:
            apart = ", ".join(f"{stage} {count}" for stage, count in one["differ"].items())
            text = (
                f"{one['runner']} adds as split_k {tuple(splits)} on a GPU; {one['fused']}, told so, differs in {apart}"
            )
        console.print(text, highlight=False, soft_wrap=True)
    for reason in result["reasons"]:
        console.print(f"[bold red]RED[/] {escape(reason)}", highlight=False, soft_wrap=True)


def kind(result: Mapping[str, Any]) -> str:
    """The type that a result is of."""
    problem = result["problem"]
    return "tf32" if problem["precision"] == "tf32" else problem["dtype"]


def _adds(one: Mapping[str, Any]) -> str:
    return one["up"] if one["up"] == one["down"] else f"{one['up']} / {one['down']}"


def _print_unknown(result: Mapping[str, Any], console: Console) -> None:
    for one in result["portraits"]:
        for gemm, why in one["why"].items():
            text = f"{one['runner']}, order of {gemm} not found: {why}"
            console.print(f"[yellow]{escape(text)}[/]", highlight=False, soft_wrap=True)


def _pair(one: Mapping[str, Any], table: Table) -> None:
    name = f"{one['a']} ~ {one['b']}"
    for stage, differ in one["differ"].items():
        steps = [step for step in one["steps"] if step["stage"] == stage]
        unexplained = one["unexplained"][stage]
        cells = (
            _count(differ, one["total"][stage], ok="default"),
            f"[{'red' if unexplained else 'green'}]{unexplained}[/]",
        )
        if not differ or not steps:
            table.add_row(name, stage, "" if differ else "no bit differs", "", "", *cells)
        for step in steps if differ else ():
            last = step is steps[-1]
            table.add_row(
                name, stage, step["knob"], str(step["alone"]), str(step["left"]), *(cells if last else ("", ""))
            )
            name, stage = "", ""
        name = ""


def _count(some: int, total: int, ok: str = "green") -> str:
    color = ok if not some or ok != "green" else "yellow"
    return f"[{color}]{some}[/] [dim]/ {total}[/]"


def print_facts(found: Sequence[Facts], console: Console) -> None:
    """What adds in each runner's GEMM."""
    names = ("terms", "bits kept", "sum rounded", "exponent", "float32 inputs", "subnormals", "product")
    table = headed("runner", *names)
    for one in found:
        bits = "" if one.fraction is None else f"{one.fraction}{' or more' * one.more}"
        terms = f"{one.terms}+1"
        cells = (terms, bits, one.rounding, one.exponent, one.tf32, one.subnormals, one.product)
        table.add_row(one.runner, *((one.why,) if one.why else (cell or "" for cell in cells)))
    console.print(table, highlight=False)


def print_vendor(
    found: Sequence[Recovered], replays: Sequence[Replay], reasons: Sequence[str], console: Console
) -> None:
    """A line an MLP, what is not known, and all that is red."""
    table = headed("MLP", "plan", "torchfused", "jaxfused", "other bits")
    for one in replays:
        cells = ["[green]equal[/]" if equal else "[red]other[/]" for equal in one.equal.values()] or ["", ""]
        differ = ", ".join(f"{stage} {count}" for stage, count in one.differ.items() if count)
        table.add_row(*str(one).split(" in the vendor's order", 1)[0].rsplit(" ", 1), *cells, escape(one.why) or differ)
    console.print(table, highlight=False)
    lost = [one for one in found if one.chains is None]
    console.print(f"{len(found) - len(lost)} of {len(found)} orders recovered", highlight=False)
    for one in lost:
        why = one.why or "in no order that was tried"
        console.print(f"  {one.layer} at {one.m} rows: {escape(why)}", highlight=False, soft_wrap=True)
    for reason in reasons:
        console.print(f"[bold red]RED[/] {escape(reason)}", highlight=False, soft_wrap=True)
    promised = [one for one in replays if one.promised]
    equal = sum(not one.red for one in promised)
    text = f"{equal} of {len(promised)} promised MLPs have every bit of torch's eager, in both twins"
    console.print(f"[{'bold red' if reasons else 'green'}]{text}[/]", highlight=False)

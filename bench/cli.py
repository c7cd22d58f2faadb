"""``python -m bench run | claims | report | check | counters | tune``."""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from parity.contract.hopper_table import FILE as TILES

from . import check as goals
from . import claims as article
from . import gpu as cards
from . import tables
from .results import FOLDER, Results, committed, folder_of, latest, load
from .run import BLOCKS, Run, Settings, Step, Unfit
from .workloads import suite

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
console = Console() if Console().is_terminal else Console(width=170)
README = Path(__file__).parents[1] / "README.md"
# Where runs without a GPU go: never among the committed results.
OUT = Path("out") / "bench"
NO_GPU = (
    "no NVIDIA GPU here: nothing was measured. `bench report`, `bench claims` and `bench check` read committed results."
)
NO_RESULTS = "no results yet: measure with `python -m bench run` on a machine with an NVIDIA GPU"

Json = Annotated[Path | None, typer.Option("--json", help="The result file; an unfinished one is gone on with.")]
GpuName = Annotated[
    str | None, typer.Option("--gpu", help="Whose committed results, for example h200; README's unless given.")
]
Folder = Annotated[Path, typer.Option("--results", help="Where results are committed.")]


def main() -> None:
    app()


@app.command()
def run(
    device: Annotated[str, typer.Option(help="auto, cuda, cpu (a dry run) or fake (made-up times)")] = "auto",
    only: Annotated[list[str] | None, typer.Option(help="Cases or contenders with this in their name.")] = None,
    quick: Annotated[bool, typer.Option(help="The few most telling cases, under four minutes on an H200.")] = False,
    suite_name: Annotated[str, typer.Option("--suite", help="full, quick, claims or dry")] = "full",
    json: Json = None,
    budget_seconds: Annotated[float, typer.Option(help="No case is begun after this.")] = float("inf"),
    frameworks: Annotated[str, typer.Option(help="torch, jax or torch,jax")] = "torch,jax",
    light: Annotated[bool, typer.Option(help="Without the contenders that take long to compile.")] = False,
    missing: Annotated[bool, typer.Option(help="Leave out what committed results of this GPU have.")] = False,
    commit: Annotated[str | None, typer.Option(help="The commit, where the working tree has no repository.")] = None,
    results: Folder = FOLDER,
) -> None:
    """Measures, the most important cases first; the file is complete after every case."""
    name = _device(device)
    cases = suite("quick" if quick else suite_name)
    card = cards.find() if name == "cuda" else None
    place = results / folder_of(card.name) if card else OUT / name
    if missing:
        done = latest(committed(place.parent, place.name))
        cases = [c for c in cases if done is None or c.key not in done.whole]
    if light:
        cases = [replace(c, heavy=False) for c in cases]
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    settings = Settings(
        device=name,
        cases=tuple(cases),
        path=json or place / f"{stamp}.json",
        only=tuple(only or ()),
        frameworks=tuple(frameworks.split(",")),
        variants=("",) if name == "cpu" else Settings.__dataclass_fields__["variants"].default,
        budget=budget_seconds,
        blocks=2 if name == "cpu" else BLOCKS,
        commit=commit,
        light=light,
    )
    found = _measure(settings)
    console.print(tables.of_run(found))
    console.print(f"{len(found.rows)} rows of {len(found.cases)} cases in {found.path}")


@app.command()
def claims(
    measure: Annotated[bool, typer.Option(help="Measure the article's setting now.")] = False,
    device: Annotated[str, typer.Option()] = "auto",
    json: Json = None,
    gpus: Annotated[int, typer.Option(help="GPUs before.")] = article.GPUS,
    price: Annotated[float, typer.Option(help="Dollars a GPU and month.")] = article.PRICE,
    tokens_per_day: Annotated[float, typer.Option()] = article.TOKENS_A_DAY,
    mlp_share: Annotated[float | None, typer.Option(help="The MLP's part of the time; measured unless given.")] = None,
    ratio: Annotated[float | None, typer.Option(help="How much faster the MLP got; measured unless given.")] = None,
    gpu: GpuName = None,
    results: Folder = FOLDER,
) -> None:
    """The article's table beside ours, its other claims, verdicts, and the cost calculator."""
    if measure:
        name = _device(device)
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        card = cards.find() if name == "cuda" else None
        place = results / folder_of(card.name) if card else OUT / name
        path = json or place / f"{stamp}-claims.json"
        found: Results | None = _measure(Settings(device=name, cases=tuple(suite("claims")), path=path))
    else:
        found = load(json) if json else latest(committed(results, gpu))
    if found is None:
        console.print(NO_RESULTS)
    console.print(tables.of_claims("The article's table", article.table(found)))
    console.print(tables.of_claims("Its other claims", article.others(found)))
    share = mlp_share if mlp_share is not None else article.measured_share(found)
    measured = ratio if ratio is not None else article.measured_ratio(found)
    console.print(tables.of_cost(gpus, price, tokens_per_day, share, measured))
    each = tokens_per_day / 86_400 / gpus
    console.print(f"{tokens_per_day:,.0f} tokens a day over {gpus} GPUs: {each:,.0f} tokens a second each.")
    if share is None or not measured:
        console.print("Give --mlp-share and --ratio, or measure, for a line of your own.")


@app.command()
def report(
    json: Json = None,
    gpu: GpuName = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for pictures and page; beside the results unless given.")
    ] = None,
    readme: Annotated[Path, typer.Option(help="The file whose marked blocks are rewritten.")] = README,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if README differs from the JSON.")
    ] = False,
    results: Folder = FOLDER,
) -> None:
    """Pictures, one HTML page, and README's numbers."""
    from . import readme as blocks

    found = load(json) if json else latest(committed(results, gpu))
    if check:
        old = blocks.stale(readme, found)
        if old:
            console.print(
                f"{readme.name}: block {', '.join(old)} differs from the committed JSON; run `python -m bench report`"
            )
            raise typer.Exit(1)
        console.print("README's numbers equal the committed JSON" if found else NO_RESULTS)
        return
    if found is None:
        console.print(NO_RESULTS)
        return
    from .report import rewrite_readme, write

    for path in write(found, out or found.path.parent / "report"):
        console.print(str(path))
    # README is one GPU's.
    home = json is not None or found.path.parent == committed(results)[-1].path.parent
    if home and readme.exists() and rewrite_readme(readme, found):
        console.print(f"{readme.name} rewritten")


@app.command()
def check(
    goals_file: Annotated[Path, typer.Argument(metavar="GOALS.json")],
    json: Json = None,
    gpu: GpuName = None,
    allow_missing: Annotated[bool, typer.Option(help="A goal without rows is no failure.")] = False,
    results: Folder = FOLDER,
) -> None:
    """Rows against stated ratios; exit 1 where one is missed."""
    found = load(json) if json else latest(committed(results, gpu))
    runs = [found, *found.beside] if found else []
    outcomes = goals.check(goals.read(goals_file), *(r.rows for r in runs))
    table = Table("goal", "where", "who", "wanted", "ratio", "", "from")
    colours = {"REACHED": "green", "MISSED": "red", "NOT MEASURED": "yellow"}
    for o in outcomes:
        ratio = "" if o.ratio is None else f"{o.ratio:.3f}"
        table.add_row(o.goal, o.place, o.ours, o.wanted, ratio, f"[{colours[o.verdict]}]{o.verdict}[/]", o.why)
    console.print(table)
    count = {v: sum(o.verdict == v for o in outcomes) for v in colours}
    console.print(", ".join(f"{n} {v.lower()}" for v, n in count.items()))
    if count["MISSED"] or (count["NOT MEASURED"] and not allow_missing):
        raise typer.Exit(1)


@app.command()
def counters(
    json: Annotated[Path, typer.Option("--json", help="The result file whose rows get counted bytes replaced.")],
    only: Annotated[list[str] | None, typer.Option(help="Cases with this in their name.")] = None,
    seconds: Annotated[float, typer.Option(help="No case is begun after this.")] = 120.0,
) -> None:
    """Bytes read and written in device memory, from hardware counters (Nsight Compute), into existing rows."""
    from .counters import fill

    _device("cuda")
    found = load(json)
    for line in fill(found, tuple(only or ()), seconds):
        console.print(line)


@app.command()
def tune(
    case: Annotated[
        list[str] | None, typer.Option(help="A workload and its rows, llama3_8b/4096; suite tune unless given.")
    ] = None,
    framework: Annotated[str, typer.Option(help="torch or jax: whose twin's launches")] = "torch",
    device: Annotated[str, typer.Option(help="auto, cuda or fake (made-up times)")] = "auto",
    json: Annotated[Path | None, typer.Option("--json", help="The table; the committed one unless given.")] = None,
    budget_seconds: Annotated[float, typer.Option(help="No launch is begun after this.")] = float("inf"),
    missing: Annotated[bool, typer.Option(help="Leave out what the table has of this GPU.")] = False,
    commit: Annotated[str | None, typer.Option(help="The commit, where the working tree has no repository.")] = None,
) -> None:
    """Tiles of tiled/hopper, measured into their table, the most important first; it is whole after every launch."""
    from .tune import Settings, Tune, cases_of

    if framework not in ("torch", "jax"):
        raise typer.BadParameter(f"{framework!r} is neither torch nor jax")
    name = _device(device)
    path = json or (OUT / name / TILES.name if name == "fake" else TILES)
    with _ended(f"what is measured is in {path}, --missing goes on from there"):
        cases = tuple(cases_of(case or ()))
        settings = Settings(
            device=name, framework=framework, cases=cases, path=path, budget=budget_seconds,
            missing=missing, commit=commit,
        )  # fmt: skip
        failed = Tune(settings, partial(print, flush=True))()
    console.print(f"the table is in {path}; {failed} launches could not be measured")
    if failed:
        raise typer.Exit(1)


def _device(name: str) -> str:
    """cuda, cpu or fake; exits with 2 where a GPU is wanted and there is none."""
    if name not in ("auto", "cuda", "cpu", "fake"):
        raise typer.BadParameter(f"{name!r} is none of auto, cuda, cpu, fake")
    if name in ("cpu", "fake"):
        return name
    if cards.find() is None:
        console.print(NO_GPU)
        raise typer.Exit(2)
    return "cuda"


def _measure(settings: Settings) -> Results:
    """Runs with a progress bar; an interrupt keeps the finished cases and exits with 130."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console) if console.is_terminal else None
    task = bar.add_task("starting", total=len(settings.cases)) if bar else None

    def say(step: Step) -> None:
        text = f"{step.case.key}: {step.text}" if step.case else step.text
        if bar is not None and task is not None:
            bar.update(task, description=text, completed=step.done, total=step.total)
        else:
            print(f"[{step.done}/{step.total}] {text}", flush=True)

    kept = f"finished cases are in {settings.path}, the same command goes on from there"
    with _ended(kept), bar or nullcontext():
        return Run(settings, say)()


@contextmanager
def _ended(kept: str) -> Iterator[None]:
    """Ends the program where a run cannot start, or is interrupted; then says what is ``kept``."""
    try:
        yield
    except Unfit as error:
        console.print(str(error))
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        console.print(f"interrupted; {kept}")
        raise typer.Exit(130) from None

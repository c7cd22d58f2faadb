"""The numbers in README.md: Markdown written from committed JSON into marked blocks, and checked against it.

    <!-- bench:NAME -->
    ... rewritten ...
    <!-- /bench:NAME -->

NAME: ``environment``, ``headline``, ``peers``, ``training``, ``memory``, ``claims``, ``fused``.
"""

import re
from pathlib import Path

from parity.contract.saved import SAVES

from . import claims
from .check import others
from .results import FOLDER, Results, Row, committed, latest, select
from .workloads import DTYPE_NAMES, workloads

BLOCK = re.compile(r"(<!-- bench:(?P<name>[a-z_]+) -->\n)(?P<body>.*?)(<!-- /bench:(?P=name) -->)", re.DOTALL)
HEADLINE = (
    ("article", (1, 16, 64, 4096)),
    ("llama3_8b", (1, 16, 64, 4096, 8192)),
    ("llama3_70b_tp8", (1, 16, 4096)),
    ("wide_16384", (4096, 8192)),
    ("dit_xl", (4096,)),
    ("narrow_64", (262144,)),
    ("narrow_128", (262144,)),
)
# Other packages' fused MLPs, and whom they are shown beside: the framework's own and ours.
PEERS = frozenset({"tokamax", "quack", "transformer_engine", "flash_attn"})
TWINS = {"torch": ("torch.eager_graph", "torchfused"), "jax": ("xla", "jaxfused")}
# The plan that is fused whatever the automatic choice is, and its labels by what it saves.
FUSED = "tiled/portable"
SAVE_LABELS = {save: FUSED if save == SAVES[0] else f"{FUSED}, {save}" for save in SAVES}


def blocks(results: Results) -> dict[str, str]:
    """Every block's Markdown by name."""
    there = elsewhere(results)
    return {
        "environment": environment(results),
        "headline": headline(results),
        "peers": peers(results),
        "training": training(results),
        "memory": memory(results, there),
        "claims": claims_table(results),
        "fused": fused(results, there),
    }


def rewrite(text: str, results: Results) -> str:
    """``text`` with its marked blocks replaced. Raises ValueError for a block nobody writes."""
    made = blocks(results)

    def replaced(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in made:
            raise ValueError(f"README has a block bench:{name}, known are {', '.join(made)}")
        return f"{match[1]}{made[name]}\n{match[4]}"

    return BLOCK.sub(replaced, text)


def stale(path: Path, results: Results | None) -> list[str]:
    """The names of the blocks that do not equal what the committed JSON gives. None where there is no file, block or
    result yet."""
    if results is None or not path.exists():
        return []
    text = path.read_text()
    new = rewrite(text, results)
    pairs = zip(BLOCK.finditer(text), BLOCK.finditer(new), strict=True)
    return [old["name"] for old, fresh in pairs if old["body"] != fresh["body"]]


def environment(results: Results) -> str:
    e = results.environment
    count = sum(len(r.rows) for r in (results, *results.beside))
    return f"{_machine([results])}; commit {e['commit']}, {e['date'][:10]}; {count} rows."


def _machine(runs: list[Results]) -> str:
    """The GPU of these runs, the newest first, and the newest version of whatever they had."""
    newest = runs[0].environment
    had = {k: v for run in reversed(runs) for k, v in run.environment["versions"].items() if v}
    driver = f", driver {newest['driver']}" if newest.get("driver") else ""
    return f"{newest['gpu']}{driver}; " + ", ".join(f"{k} {v}" for k, v in had.items())


def headline(results: Results) -> str:
    """Microseconds a layer; the fastest other contender by name; the fraction of the roof."""
    rows = list(select(results.rows, dtype="bfloat16", mode="forward", cache="cold", correct=True))
    lines = [
        "| MLP (bf16, cold weights) | M | torch eager, graphed | fastest other in torch | torchfused | XLA | jaxfused "
        "| torchfused of roof |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, sizes in HEADLINE:
        for m in sizes:
            here = list(select(rows, workload=name, m=m))
            if not here:
                continue
            ours = _row(here, "torchfused", "auto")
            fraction = (
                f"{100 * ours['roof_fraction']:.0f} % ({ours['roof']})" if ours and ours["roof_fraction"] else "-"
            )
            cells = [
                workloads()[name].label,
                f"{m:,}",
                _time(_row(here, "torch.eager_graph")),
                _named(list(others(here, "torch")), "contender"),
                f"**{_time(ours)}**",
                _time(_row(here, "xla")),
                f"**{_time(_row(here, 'jaxfused', 'auto'))}**",
                fraction,
            ]
            lines.append("| " + " | ".join(cells) + " |")
    if len(lines) == 2:
        return "No forward pass in bf16 has been measured yet."
    return "\n".join(lines)


def peers(results: Results) -> str:
    """Microseconds of other packages' fused MLPs where they have rows, each line from one run, the newest."""
    lines = [
        "| MLP (cold weights) | M | | peer | its framework's own | peer | ours | ours of the peer's |",
        "|---|---:|---|---|---:|---:|---:|---:|",
    ]
    found: dict[tuple, tuple[Row, list[Row]]] = {}
    for run in (*results.beside, results):
        for row in select(run.rows, contender=PEERS, cache="cold", correct=True):
            place = row["workload"], row["m"], row["mode"], row["dtype"], row["contender"], row["plan"]
            found.setdefault(place, (row, list(select(run.rows, case=row["case"], correct=True))))
    for (name, m, mode, dtype, contender, plan), (peer, here) in sorted(found.items()):
        own, twin = TWINS[peer["framework"]]
        ours = _row(here, twin, "auto")
        what = f"{DTYPE_NAMES[dtype]}, {mode.replace('_', ' and ')}"
        cells = [workloads()[name].label, f"{m:,}", what, f"{contender} {plan}".strip()]
        cells += [_time(_row(here, own)), _time(peer), f"**{_time(ours)}**", _ratio(ours, peer)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else "No other package's fused MLP has been measured yet."


def fused(results: Results, there: list[Results]) -> str:
    """Microseconds of our fastest fused plan beside the fastest other, of every case that a run had with plans of the
    hopper backend: on this GPU, else on another with committed results, whose runs are named."""
    lines = [
        "| MLP (bf16, cold weights) | M | GPU | torch eager, graphed | fastest other in torch | torchfused | XLA "
        "| fastest other in jax | jaxfused |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    told, found = [], {}
    for run in (results, *there):
        cases = {case: (run, rows) for case, rows in _with_hopper(run, "forward").items() if case not in found}
        if cases and run is not results:
            shown = {id(row) for _, rows in cases.values() for row in rows}
            gave = [some for some in run.runs or [run] if any(id(row) in shown for row in some.rows)]
            commits = ", ".join(str(some.environment["commit"]) for some in gave)
            told.append(f"{_machine(gave)}; commits {commits}; {len(shown)} rows.")
        found |= cases
    for (name, m), (run, here) in sorted(found.items(), key=lambda case: case[0]):
        cells = [workloads()[name].label, f"{m:,}", run.path.parent.name.upper()]
        for own, framework in (("torch.eager_graph", "torch"), ("xla", "jax")):
            rivals = [r for r in others(here, framework) if r["contender"] != own]
            cells += [
                _time(_row(here, own)),
                _named(rivals, "contender"),
                f"**{_named(_ours(here, framework), 'plan')}**",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*told, "", *lines]) if found else "No plan of the hopper backend has been measured yet."


def elsewhere(results: Results) -> list[Results]:
    """What is committed of other GPUs."""
    home = results.path.parent.resolve()
    there = [latest(committed(FOLDER, f.name)) for f in sorted(FOLDER.iterdir()) if f.resolve() != home]
    return list(filter(None, there))


def _with_hopper(results: Results, mode: str) -> dict[tuple[str, int], list[Row]]:
    """Cases by workload and rows, of each framework the rows of the newest run that had a plan of the hopper backend
    in it: ratios are taken inside a framework."""
    found: dict[tuple[str, int, str], list[Row]] = {}
    for run in results.runs or [results]:
        rows = list(select(run.rows, dtype="bfloat16", mode=mode, cache="cold", correct=True))
        for name, m, framework in {(r["workload"], r["m"], r["framework"]) for r in rows if "/hopper" in r["plan"]}:
            here = list(select(rows, workload=name, m=m, framework=framework))
            found.setdefault((name, m, framework), here)
    cases: dict[tuple[str, int], list[Row]] = {}
    for (name, m, _), here in found.items():
        cases.setdefault((name, m), []).extend(here)
    return cases


def _ours(rows: list[Row], framework: str) -> list[Row]:
    """Those of our fused plans."""
    return [r for r in select(rows, contender=TWINS[framework][1]) if r["plan"] not in ("auto", "library")]


def _named(rows: list[Row], what: str) -> str:
    """The fastest row's time, and which one it is."""
    best = _fastest(rows)
    return f"{_time(best)} ({best[what].removeprefix('torch.')})" if best else "-"


def training(results: Results) -> str:
    """Microseconds of a layer's forward and backward; our fastest fused plan against each framework's own."""
    rows = list(select(results.rows, dtype="bfloat16", mode="forward_backward", cache="cold", correct=True))
    lines = [
        "| forward and backward (bf16) | M | torch eager, graphed | fastest other in torch | torchfused, fused "
        "| of eager | XLA | jaxfused, fused | of XLA |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    cases = {(r["workload"], r["m"]): list(select(rows, workload=r["workload"], m=r["m"])) for r in rows}
    for (name, m), here in sorted((cases | _with_hopper(results, "forward_backward")).items()):
        eager, xla = _row(here, "torch.eager_graph"), _row(here, "xla")
        cells = [workloads()[name].label, f"{m:,}", _time(eager), _named(list(others(here, "torch")), "contender")]
        for framework, against in (("torch", eager), ("jax", xla)):
            ours = _ours(here, framework)
            cells += [] if framework == "torch" else [_time(xla)]
            cells += [f"**{_named(ours, 'plan')}**", _ratio(_fastest(ours), against)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else "No backward pass has been measured yet."


def memory(results: Results, there: list[Results]) -> str:
    """The most memory a layer's training step holds beside its operands, in MB (10^6 bytes): each framework's cells
    from the newest run that has them all, on whichever GPU, for bytes do not hang on it."""
    columns = {
        "torch": {"torch eager": ("torch.eager", "")}
        | {f"torchfused, {save}": ("torchfused", label) for save, label in SAVE_LABELS.items()},
        "jax": {"XLA": ("xla", "")} | {f"jaxfused, {save}": ("jaxfused", label) for save, label in SAVE_LABELS.items()},
    }
    runs = [run for some in (results, *there) for run in some.runs or [some]]
    found: dict[tuple[str, int], dict[str, list[str]]] = {}
    for run in sorted(runs, key=lambda run: str(run.environment.get("date", "")), reverse=True):
        rows = list(select(run.rows, dtype="bfloat16", mode="forward_backward", correct=True))
        for name, m in sorted({(r["workload"], r["m"]) for r in rows}):
            here = [r for r in select(rows, workload=name, m=m) if r.get("peak_bytes")]
            for framework, wanted in columns.items():
                cells = [_row(here, *column) for column in wanted.values()]
                if all(cells):
                    told = [f"{cell['peak_bytes'] / 1e6:,.0f}" for cell in cells if cell]
                    found.setdefault((name, m), {}).setdefault(framework, told)
    heads = [head for wanted in columns.values() for head in wanted]
    lines = ["| peak MB of a training step | M | " + " | ".join(heads) + " |", "|---|---:|" + "---:|" * len(heads)]
    for (name, m), told in sorted(found.items()):
        cells = [cell for framework, wanted in columns.items() for cell in told.get(framework, ["-"] * len(wanted))]
        lines.append("| " + " | ".join([workloads()[name].label, f"{m:,}", *cells]) + " |")
    return "\n".join(lines) if found else "No training step's memory has been measured yet."


def claims_table(results: Results) -> str:
    """The article's table and its other claims, one line each."""
    lines = ["| claim | the article | measured here | verdict | why |", "|---|---|---|---|---|"]
    for c in claims.table(results) + claims.others(results):
        lines.append(f"| {c.claim} | {c.article} | {c.measured} | **{c.verdict}** | {c.arithmetic} |")
    return "\n".join(lines)


def _fastest(rows: list[Row]) -> Row | None:
    return min(rows, key=lambda r: r["kernel_us"]["median"], default=None)


def _row(rows: list[Row], contender: str, plan: str = "") -> Row | None:
    return next(iter(select(rows, contender=contender, plan=plan)), None)


def _ratio(row: Row | None, other: Row | None) -> str:
    return f"{row['kernel_us']['median'] / other['kernel_us']['median']:.2f}" if row and other else "-"


def _time(row: Row | None) -> str:
    if row is None:
        return "-"
    us = row["kernel_us"]["median"]
    return f"{us:.1f}" if us < 1000 else f"{us:,.0f}"

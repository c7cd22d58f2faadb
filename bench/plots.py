"""Pictures of a run: latency against M over its roofs, the same in multiples of the roof, speed-up, share of roof."""

from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.figure import Figure

from .check import others
from .results import Row, select
from .workloads import workloads

# contender -> (label, colour, line style, width); what is ours is thick.
LINES = {
    "torchfused": ("torchfused", "#1f4e9c", "-", 2.6),
    "jaxfused": ("jaxfused", "#0f9d8a", "-", 2.6),
    "torch.eager_graph": ("torch eager, graphed", "#7f7f7f", "-", 1.4),
    "torch.compile": ("torch.compile", "#e07b00", "-", 1.4),
    # Measured at some sizes only: points, no line between them.
    "torch.compile_max_autotune": ("torch.compile max-autotune", "#c9a400", "", 0),
    "liger": ("Liger", "#9b59b6", "-", 1.4),
    "xla": ("XLA", "#c0392b", "-", 1.4),
}
ROOFS = {"stream_us": ("weights read once", ":"), "gemm_us": ("vendor GEMMs alone", "--")}
MAIN = {"dtype": "bfloat16", "mode": "forward", "cache": "cold", "correct": True}
BAR_SIZES = (1, 16, 64, 256, 1024, 4096, 8192, 16384, 262144)


def draw(rows: list[Row], folder: Path) -> list[Path]:
    """Writes the pictures the rows suffice for; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = list(select(rows, **MAIN))
    written = []
    pictures = {
        "latency": latency(kept),
        "over_roof": over_roof(kept),
        "speedup": speedup(kept),
        "roof": roof(kept),
    }
    for name, picture in pictures.items():
        if picture is not None:
            path = folder / f"{name}.png"
            # No software version in the file: the same rows give the same bytes.
            picture.savefig(path, dpi=110, metadata={"Software": None})
            pyplot.close(picture)
            written.append(path)
    return written


def latency(rows: list[Row]) -> Figure | None:
    """Microseconds, one panel a workload measured at two sizes or more."""
    names = _swept(rows)
    if not names:
        return None
    figure, panels = _grid(len(names), "Time per MLP against rows (bf16, cold weights): lower is better")
    for panel, name in zip(panels, names, strict=False):
        here = list(select(rows, workload=name))
        _curves(panel, here, lambda r: r["kernel_us"]["median"])
        for column, (label, style) in ROOFS.items():
            points = sorted({(r["m"], r[column]) for r in here if r.get(column)})
            if points:
                panel.plot(*zip(*points, strict=True), style, color="black", lw=1.2, label=label)
        panel.set(xscale="log", yscale="log", title=workloads()[name].label, xlabel="rows M", ylabel="microseconds")
        _sizes(panel, {r["m"]: _short(r["m"]) for r in here})
    _legend(figure, panels)
    return figure


def over_roof(rows: list[Row]) -> Figure | None:
    """The same in multiples of the nearest roof, where contenders can be told apart; the roof itself stands below."""
    rows = [r for r in rows if r["roof_fraction"]]
    names = _swept(rows)
    if not names:
        return None
    figure, panels = _grid(len(names), "Time per MLP over the nearest roof, which stands under each M in microseconds")
    for panel, name in zip(panels, names, strict=False):
        here = list(select(rows, workload=name))
        places = {m: i for i, m in enumerate(sorted({r["m"] for r in here}))}
        _curves(panel, here, lambda r: 1 / r["roof_fraction"], places)
        panel.axhline(1, color="black", lw=1.2, ls="--", label="nearest roof")
        top = max(1 / r["roof_fraction"] for r in here if r["contender"] in LINES)
        panel.set(title=workloads()[name].label, ylabel="x roof", ylim=(0.85, min(3.0, 1.05 * top)))
        _sizes(panel, {places[r["m"]]: f"{_short(r['m'])}\n{r[r['roof'] + '_us']:.0f}" for r in here})
    _legend(figure, panels)
    return figure


def speedup(rows: list[Row]) -> Figure | None:
    """Bars: the best other contender's time over ours, each twin against its own framework. Workloads measured at one
    size share a panel."""
    groups: dict[str, dict[tuple[str, str], float]] = {}
    for name, work in workloads().items():
        bars = _bars(list(select(rows, workload=name)))
        single = len({m for m, _ in bars}) == 1
        for (m, twin), height in bars.items():
            title, tick = (
                ("measured at one size", f"{fill(work.label, 14)}\nM={_short(m)}")
                if single
                else (work.label, _short(m))
            )
            groups.setdefault(title, {})[tick, twin] = height
    if not groups:
        return None
    groups |= {t: groups.pop(t) for t in ["measured at one size"] if t in groups}
    title = "Speed-up over the fastest other contender of the same framework: above 1 is faster"
    figure, panels = _grid(len(groups), title)
    for panel, (name, bars) in zip(panels, groups.items(), strict=False):
        ticks = list(dict.fromkeys(tick for tick, _ in bars))
        for i, twin in enumerate(("torchfused", "jaxfused")):
            at = [k for k, tick in enumerate(ticks) if (tick, twin) in bars]
            heights = [bars[ticks[k], twin] for k in at]
            drawn = panel.bar([k + 0.4 * (i - 0.5) for k in at], heights, 0.38, color=LINES[twin][1], label=twin)
            panel.bar_label(drawn, [f"{h:.2f}" for h in heights], fontsize=6, padding=1)
        panel.axhline(1, color="black", lw=1)
        panel.set(title=name, ylim=(0, 1.15 * max(1.2, *bars.values())))
        panel.set_xticks(range(len(ticks)), ticks, fontsize=7)
        panel.set_xlabel("" if "one size" in name else "rows M")
    _legend(figure, panels)
    return figure


def roof(rows: list[Row]) -> Figure | None:
    """Tables in colour: the share of the nearest roof that each twin and the best other contender reach."""
    names = [n for n in workloads() if any(r["roof_fraction"] for r in select(rows, workload=n))]
    sizes = sorted({r["m"] for r in rows if r["roof_fraction"]})
    if not names:
        return None
    tables = {
        "torchfused": lambda here: _best_plan(here, "torchfused"),
        "jaxfused": lambda here: _best_plan(here, "jaxfused"),
        "best other, either framework": lambda here: list(others(here)),
    }
    width = 2.2 + 0.62 * len(sizes) * len(tables)
    figure, panels = pyplot.subplots(1, 3, figsize=(width, 1.6 + 0.42 * len(names)), sharey=True, layout="constrained")
    figure.suptitle(
        "Fraction of the nearest roof: weights read once, x and y copied, or the vendor's GEMMs alone",
        fontsize=11,
    )
    for panel, (title, choose) in zip(panels, tables.items(), strict=True):
        cells = [[_fraction(choose(list(select(rows, workload=n, m=m)))) for m in sizes] for n in names]
        shown = [[c if c is not None else float("nan") for c in line] for line in cells]
        panel.imshow(shown, cmap="RdYlGn", vmin=0.4, vmax=1.05, aspect="auto")
        for i, line in enumerate(cells):
            for j, c in enumerate(line):
                if c is not None:
                    panel.text(j, i, f"{100 * c:.0f}", ha="center", va="center", fontsize=8)
        panel.set_title(f"{title} (%)", fontsize=10)
        panel.set_xticks(range(len(sizes)), [_short(m) for m in sizes], fontsize=8)
        panel.set_yticks(range(len(names)), [workloads()[n].label for n in names], fontsize=8)
        panel.set_xlabel("rows M", fontsize=8)
    return figure


def _bars(rows: list[Row]) -> dict[tuple[int, str], float]:
    """(M, twin) -> speed-up."""
    bars = {}
    for m in sorted({r["m"] for r in rows} & set(BAR_SIZES)):
        for twin, framework in (("torchfused", "torch"), ("jaxfused", "jax")):
            ours = _best_plan(list(select(rows, m=m)), twin)
            rivals = list(others(list(select(rows, m=m)), framework))
            if ours and rivals:
                bars[m, twin] = min(r["kernel_us"]["median"] for r in rivals) / ours[0]["kernel_us"]["median"]
    return bars


def _swept(rows: list[Row]) -> list[str]:
    """Workloads measured at two sizes or more."""
    return [n for n in workloads() if len({r["m"] for r in select(rows, workload=n)}) > 1]


def _curves(panel: Any, rows: list[Row], height: Callable[[Row], float], places: dict[int, int] | None = None) -> None:
    """One line a contender of LINES; ``places`` maps M to where it stands, M itself unless given."""
    for contender, (label, colour, style, width) in LINES.items():
        points = sorted((places[r["m"]] if places else r["m"], height(r)) for r in _best_plan(rows, contender))
        if points:
            mark, size = ("o", 3) if style else ("D", 4)
            drawn = zip(*points, strict=True)
            panel.plot(*drawn, ls=style or "none", color=colour, lw=width, label=label, marker=mark, ms=size)


def _sizes(panel: Any, ticks: dict[int, str]) -> None:
    panel.set_xticks(sorted(ticks), [ticks[m] for m in sorted(ticks)], fontsize=7)
    panel.minorticks_off()
    panel.grid(alpha=0.25)


def _best_plan(rows: list[Row], contender: str) -> list[Row]:
    """The contender's rows as a user meets them: the automatic plan, where there are plans."""
    return [r for r in rows if r["contender"] == contender and r["plan"] in ("", "auto")]


def _fraction(rows: list[Row]) -> float | None:
    return max((r["roof_fraction"] for r in rows if r["roof_fraction"]), default=None)


def _grid(count: int, title: str) -> tuple[Figure, list[Any]]:
    columns = min(3, count)
    lines = -(-count // columns)
    size = (max(7.0, 4.3 * columns), 3.1 * lines + 1.1)
    figure, panels = pyplot.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    figure.suptitle(title, fontsize=12)
    flat = list(panels.flat)
    for panel in flat[count:]:
        panel.axis("off")
    for panel in flat[:count]:
        panel.tick_params(labelsize=7)
        panel.title.set_fontsize(10)
    return figure, flat


def _legend(figure: Figure, panels: list[Any]) -> None:
    entries = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=5, fontsize=8, frameon=False)


def _short(m: int) -> str:
    return f"{m // 1024}K" if m >= 1024 and m % 1024 == 0 else str(m)

"""The picture of ``parity drift``: what each knob changes, how errors grow with K, how runners part with depth."""

from pathlib import Path
from typing import Any

from .train_plot import COLORS, STYLES

# The emulated ones, which are nobody's.
GRAYS = ("#333333", "#777777", "#aaaaaa")


def plot(result: dict[str, Any], path: Path) -> None:
    """Writes a PNG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(16, 5), layout="constrained")
    _knobs(left, result["knobs"])
    _along(middle, result["along_k"])
    _deep(right, result["with_depth"])
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=120, format="png")
    plt.close(figure)


def _knobs(axes: Any, turns: list[dict[str, Any]]) -> None:
    names = [f"{turn['knob']}: {turn['setting']}" for turn in turns]
    for offset, (stage, color) in enumerate((("s", "#00798c"), ("h", "#edae49"), ("y", "#d1495b"))):
        shares = [100 * turn["changed"][stage] / max(1, turn["total"][stage]) for turn in turns]
        axes.barh([i + 0.27 * (offset - 1) for i in range(len(turns))], shares, 0.25, color=color, label=stage)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="% of elements with other bits", title="One knob turned, all others as they were")
    axes.legend(frameon=False)


def _along(axes: Any, points: list[dict[str, Any]]) -> None:
    lengths = [point["k"] for point in points]
    for kind, width in (("runners", 1.8), ("emulated", 1.0)):
        for name in sorted({name for point in points for name in point[kind]}):
            series = [(point["k"], point[kind][name]) for point in points if point[kind].get(name)]
            color = COLORS.get(name, GRAYS[len(axes.lines) % len(GRAYS)])
            style = STYLES.get(name, (0, (1, 1)))
            if series:
                xs, ys = zip(*series, strict=True)
                axes.plot(xs, ys, color=color, linestyle=style, linewidth=width, marker="o", markersize=3, label=name)
    axes.plot(lengths, [point["walk"] for point in points], color="black", linewidth=0.8, label="sqrt(n) law")
    axes.plot(lengths, [point["worst"] for point in points], color="black", linestyle=":", label="n bound")
    if lengths:
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(lengths, map(str, lengths))
        axes.set_xticks([], minor=True)
        axes.legend(frameon=False, fontsize=8)
    axes.set(xlabel="summands", ylabel="error of s, rms, in units of R", title="With the length of a sum")


def _deep(axes: Any, points: list[dict[str, Any]]) -> None:
    for name in points[-1]["relative"] if points else ():
        a, b = name.split(" ~ ")
        series = [(point["depth"], point["relative"][name]) for point in points if point["relative"].get(name)]
        color = "black" if {a, b} == {"jaxfused", "torchfused"} else COLORS[a]
        if not series:
            axes.plot([], [], color=color, label=f"{name}: no bit differs")
            continue
        axes.plot(*zip(*series, strict=True), color=color, linestyle=STYLES[b], linewidth=1.6, label=name)
    depths = [point["depth"] for point in points]
    widest = max((value for point in points[:1] for value in point["relative"].values()), default=0.0)
    if widest:
        axes.plot(depths, [widest * d**0.5 for d in depths], color="black", linewidth=0.8, label="sqrt(layers) law")
        axes.plot(depths, [widest * d for d in depths], color="black", linestyle=":", linewidth=0.8, label="layers law")
    if any(any(point["relative"].values()) for point in points):
        axes.set(xscale="log", yscale="log")
        ticks = [d for d in depths if not d & (d - 1)]
        axes.set_xticks(ticks, map(str, ticks))
        axes.set_xticks([], minor=True)
    if points:
        axes.legend(frameon=False, fontsize=8)
    axes.set(xlabel="layers", ylabel="|a - b| / |b|", title="With the depth of a stack")

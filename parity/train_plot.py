"""The picture of `parity train`: loss curves of the four runs, and how far apart each pair's parameters are."""

from pathlib import Path
from typing import Any

COLORS = {"jaxfused": "#d1495b", "torchfused": "#00798c", "xla": "#edae49", "eager": "#66827a"}
STYLES = {"jaxfused": "-", "torchfused": (0, (4, 3)), "xla": ":", "eager": "-."}


def plot(result: dict[str, Any], path: Path) -> None:
    """Writes a PNG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    for name, run in result["runs"].items():
        steps = range(1, len(run["loss"]) + 1)
        left.plot(steps, run["loss"], color=COLORS[name], linestyle=STYLES[name], linewidth=1.6, label=name)
    left.set(xlabel="step", ylabel="loss (nats a character)", title="The same model, data and optimizer, four ways")
    left.legend(frameon=False)
    for pair in result["pairs"]:
        a, b = pair["a"], pair["b"]
        points = [(d["step"], d["relative"]) for d in pair["drift"] if d["relative"] > 0]
        if not points:
            right.plot([], [], color=COLORS[a], label=f"{a} ~ {b}: no bit differs")
            continue
        twins = (a, b) == ("jaxfused", "torchfused")
        label = f"{a} ~ {b}, apart from step {pair['first_parameters']}"
        color, width = ("black", 2.4) if twins else (COLORS[a], 1.6)
        right.plot(*zip(*points, strict=True), color=color, linewidth=width, label=label, marker="o", markersize=3)
    right.set(xscale="log", yscale="log", xlabel="step", ylabel="|a - b| / |b| of all parameters")
    right.set_title("How far rounding alone drives them apart")
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=130)
    plt.close(figure)

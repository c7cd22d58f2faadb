"""Orders of summation as pictures: how many summands lie below the node at which two of them meet."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from .order import GemmOrder

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import LogNorm


def plot(findings: Sequence[GemmOrder], path: Path) -> None:
    """One square a GEMM, summand against summand, dark where they meet early; equal orders are equal squares."""
    found = [finding for finding in findings if finding.order]
    columns = max(1, min(4, len(found)))
    rows = -(-len(found) // columns) or 1
    figure, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 3.6 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(found) :]:
        axis.axis("off")
    for axis, finding in zip(axes.flat, found, strict=False):
        assert finding.order
        counts = finding.order.counts()
        axis.imshow(counts, norm=LogNorm(1, max(2, counts.max())), cmap="magma", interpolation="nearest")
        axis.set_title(f"{finding.runner}, {finding.gemm}\n{finding.order.digest}", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.savefig(path, dpi=120, format="png")
    plt.close(figure)

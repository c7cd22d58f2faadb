"""The page's drawings, as SVG: ulp histograms, orders of summation, ratios with their intervals."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from .tree import Tree

# An order's picture has so many cells a side, each the mean of what it stands for.
CELLS = 32
GOOD, OTHER, BAD = "#2a7f4f", "#3b6fb6", "#c0392b"


def bars(counts: Sequence[int]) -> Markup:
    """Bars of the shares of all elements, on a logarithmic scale, one a bin of ulps."""
    total, width, height = sum(counts), 40, 90
    floor = np.log10(0.5 / total)
    parts = []
    for i, count in enumerate(counts):
        x = i * width
        if count:
            tall = height * (1 - np.log10(count / total) / floor)
            tall = max(2.0, tall)
            share = 100 * count / total
            parts.append(
                f'<rect x="{x + 3}" y="{height - tall + 14:.1f}" width="{width - 6}" height="{tall:.1f}" '
                f'fill="{GOOD if i == 0 else OTHER}"><title>{count} elements, {share:.4g} %</title></rect>'
                f'<text x="{x + width / 2}" y="{height - tall + 11:.1f}" class="t">{_share(share)}</text>'
            )
        parts.append(f'<text x="{x + width / 2}" y="{height + 27}" class="t">{_bin(i)}</text>')
    size = f'width="{max(1, len(counts)) * width}" height="{height + 32}"'
    return Markup(f'<svg class="bars" {size} role="img" aria-label="ulps">{"".join(parts)}</svg>')


def image_of_order(report: dict[str, Any]) -> list[tuple[str, Markup]]:
    """Each GEMM's order: summand against summand, dark where they meet early."""
    found = []
    for finding in report["findings"]:
        if not finding["nodes"]:
            continue
        tree = Tree(report["probe"]["k"], tuple(tuple(children) for children in finding["nodes"]))
        counts = np.log2(tree.counts())
        edges = np.linspace(0, len(counts), min(CELLS, len(counts)) + 1).astype(int)
        side, top = 4, max(1.0, float(counts.max()))
        cells = []
        for i, (a, b) in enumerate(itertools.pairwise(edges)):
            for j, (c, d) in enumerate(itertools.pairwise(edges)):
                light = int(95 * counts[a:b, c:d].mean() / top)
                cells.append(
                    f'<rect x="{j * side}" y="{i * side}" width="{side}" height="{side}" fill="hsl(220 60% {light}%)"/>'
                )
        size = side * (len(edges) - 1)
        drawn = (
            f'<svg class="order" width="{size}" height="{size}" role="img" aria-label="order">{"".join(cells)}</svg>'
        )
        found.append((f"{finding['runner']}, {finding['gemm']}: {finding['order']}", Markup(drawn)))
    return found


def intervals(report: dict[str, Any]) -> Markup:
    """Each pair's ratio as a point with its interval, on a logarithmic scale around 1."""
    pairs = [(row["case"], pair) for row in report["rows"] for pair in row["pairs"]]
    if not pairs:
        return Markup("")
    edges = [abs(np.log2(max(pair[key], 1e-9))) for _, pair in pairs for key in ("low", "high")]
    reach, left, width, line = max(1.0, *edges), 470, 420, 18

    def at(ratio: float) -> float:
        return left + width / 2 * (1 + np.log2(max(ratio, 1e-9)) / reach)

    height = line * len(pairs)
    parts = [f'<line x1="{at(1)}" x2="{at(1)}" y1="0" y2="{height}" stroke="#999" stroke-dasharray="3 3"/>']
    for i, (case, pair) in enumerate(pairs):
        y = i * line + line / 2
        color = {"SAME": GOOD, "FASTER": OTHER, "SLOWER": BAD}.get(pair["verdict"], "#777")
        text = f"{case}: {pair['b']} / {pair['a']}"
        parts.append(
            f'<text x="0" y="{y + 4}">{Markup.escape(text)}</text>'
            f'<line x1="{at(pair["low"]):.1f}" x2="{at(pair["high"]):.1f}" y1="{y}" y2="{y}" stroke="{color}" '
            f'stroke-width="4"/><circle cx="{at(pair["ratio"]):.1f}" cy="{y}" r="4" fill="{color}"/>'
            f'<text x="{left + width + 12}" y="{y + 4}">{pair["ratio"]:.3f} {pair["verdict"]}</text>'
        )
    size = f'width="{left + width + 130}" height="{height}"'
    return Markup(f'<svg class="ratios" {size} role="img" aria-label="ratios">{"".join(parts)}</svg>')


def attribution(report: dict[str, Any]) -> Markup:
    """How many of y's elements each of a drift report's knobs changes, as bars; empty for another report."""
    turns = [turn for turn in report.get("knobs", []) if turn.get("total", {}).get("y")]
    left, width, line = 330, 420, 18
    parts = []
    for i, turn in enumerate(turns):
        share, y = turn["changed"].get("y", 0) / turn["total"]["y"], i * line
        text = f"{turn['knob']}: {turn['setting']}"
        parts.append(
            f'<text x="0" y="{y + 13}">{Markup.escape(text)}</text>'
            f'<rect x="{left}" y="{y + 3}" width="{max(1.0, width * share):.1f}" height="12" fill="{OTHER}"/>'
            f'<text x="{left + width * share + 8:.1f}" y="{y + 13}">{100 * share:.3g} %</text>'
        )
    size = f'width="{left + width + 80}" height="{line * len(turns)}"'
    return Markup(f'<svg class="turns" {size} role="img" aria-label="knobs">{"".join(parts)}</svg>' if turns else "")


def _bin(i: int) -> str:
    return str(i) if i < 3 else f"≤{_short(2 ** (i - 1))}"


def _short(size: int) -> str:
    return str(size) if size < 1024 else f"2^{size.bit_length() - 1}"


def _share(percent: float) -> str:
    return f"{percent:.0f}%" if percent >= 1 else f"{percent:.1g}%" if percent >= 0.01 else "·"

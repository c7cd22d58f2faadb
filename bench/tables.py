"""Tables on the terminal."""

from typing import Any

from rich.table import Table

from . import check, claims
from .results import Results, Row


def of_run(found: Results) -> Table:
    """The fastest of ours and of the others, a line a case."""
    heads = "case", "stream us", "gemm us", "torchfused", "best torch", "jaxfused", "best JAX"
    table = Table(*heads, title="device us a layer")
    for case in found.finished_in_order:
        rows = [r for r in found.rows if r["case"] == case and r["correct"]]
        if not rows:
            continue
        cells: list[Any] = [case, *(f"{rows[0].get(k) or 0:.1f}" for k in ("stream_us", "gemm_us"))]
        for ours, framework in (("torchfused", "torch"), ("jaxfused", "jax")):
            mine = [r for r in rows if r["contender"] == ours]
            rest = list(check.others(rows, framework))
            cells += [_best(mine, with_plan=True), _best(rest)]
        table.add_row(*cells)
    return table


def of_claims(title: str, lines: list[claims.Claim]) -> Table:
    """The article's words, what was measured, and the verdict."""
    table = Table("claim", "the article", "measured here", "verdict", "why", title=title, show_lines=True)
    for c in lines:
        table.add_row(c.claim, c.article, c.measured, f"[bold]{c.verdict}[/bold]", c.arithmetic)
    return table


def of_cost(gpus: int, price: float, tokens: float, share: float | None, ratio: float | None) -> Table:
    """What a faster MLP saves: by the article, and by the MLP's ``share`` of the time and a ``ratio``, as far as they
    are known."""
    heads = "", "MLP faster by", "MLP's share", "model faster by", "GPUs", "a month", "saved"
    table = Table(*heads, title="The cost table")
    cases = [("the article", claims.ARTICLE_RATIO, 1.0)]
    cases += [("measured", ratio, share)] if ratio and share is not None else []
    cases += [("the article's ratio, this share", claims.ARTICLE_RATIO, share)] if share is not None else []
    for label, r, s in cases:
        c = claims.Cost(gpus=gpus, price=price, tokens_a_day=tokens, ratio=r, share=s)
        saved = f"{100 * (1 - c.gpus_after / gpus):.0f} %"
        months = f"${c.month_before:,.0f} -> ${c.month_after:,.0f}"
        fleet = f"{gpus} -> {c.gpus_after}"
        table.add_row(label, f"{r:.2f}x", f"{100 * s:.0f} %", f"{c.model_ratio:.2f}x", fleet, months, saved)
    return table


def _best(rows: list[Row], with_plan: bool = False) -> str:
    if not rows:
        return "-"
    row = min(rows, key=lambda r: r["kernel_us"]["median"])
    return f"{row['kernel_us']['median']:.1f} {row['plan'] if with_plan else row['contender'].removeprefix('torch.')}"

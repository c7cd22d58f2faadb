"""``python -m bench report``: pictures, one self-contained HTML page, README's numbers."""

import base64
from pathlib import Path

import jinja2

from . import claims, plots, readme
from .results import Results

TEMPLATES = Path(__file__).with_name("templates")


def write(results: Results, folder: Path) -> list[Path]:
    """Draws the pictures into ``folder`` and the page beside them; the paths written."""
    pictures = plots.draw(results.rows, folder)
    page = folder / "index.html"
    page.write_text(html(results, pictures))
    return [*pictures, page]


def html(results: Results, pictures: list[Path]) -> str:
    """The page: pictures inlined, no script and nothing fetched."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["us"] = lambda e: "" if not e else f"{e['median']:,.2f}"
    environment.filters["spread"] = lambda e: "" if not e else f"{e['low']:,.2f} - {e['high']:,.2f}"
    environment.filters["percent"] = lambda f: "" if f is None else f"{100 * f:.0f} %"
    runs = [results, *results.beside]
    return environment.get_template("report.html.j2").render(
        environment=readme.environment(results),
        pictures=[(p.stem, base64.b64encode(p.read_bytes()).decode()) for p in pictures],
        table=claims.table(results),
        others=claims.others(results),
        shares=results.shares,
        runs=runs,
        absent=results.absent,
        problems=[p for r in runs for p in r.problems],
    )


def rewrite_readme(path: Path, results: Results) -> bool:
    """Whether README.md was changed."""
    old = path.read_text()
    new = readme.rewrite(old, results)
    if new != old:
        path.write_text(new)
    return new != old

"""The command line: ``python -m parity COMMAND``, and each command where it is written. Exit code 0: nothing is red; 1:
something is; 2: misuse."""

import typer

from .cli_effects import latency, tokens, train
from .cli_faults import determinism, inject, minimise
from .cli_numerics import drift, golden, order, vendor
from .cli_run import list_cases, report_page, run

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Feeds jaxfused and torchfused the same bytes and says how far apart they are, and why.",
)
app.command("list")(list_cases)
for command in (run, order, drift, golden, vendor, determinism, inject, minimise, train, tokens, latency):
    app.command()(command)
app.command("report")(report_page)


def main() -> None:
    """The installed ``parity`` command."""
    app(prog_name="parity")

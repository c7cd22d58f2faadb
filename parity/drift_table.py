"""Replays as text: each check of the emulator."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from .golden import Check


def print_check(check: Check, console: Console) -> None:
    """One check in a line: how many bits of each stage were predicted."""
    parts = [f"{stage} {total - check.wrong[stage]}/{total}" for stage, total in check.outputs.items()]
    text = "[red]error[/] " + escape(check.why) if check.why else ", ".join(parts)
    color = "red" if check.red else "green"
    console.print(f"[{color}]{check.runner}[/] {escape(str(check.item))}: {text}", highlight=False, soft_wrap=True)


def print_checks(checks: Sequence[Check], console: Console) -> None:
    """What is red, and the sums."""
    red = [check for check in checks if check.red]
    for check in red[:12]:
        print_check(check, console)
    outputs, wrong = (sum(sum(part(check).values()) for check in checks) for part in (_outputs, _wrong))
    text = f"{len(checks)} checks, {len(red)} red; {outputs - wrong} of {outputs} outputs predicted to the bit"
    console.print(f"[{'bold red' if red else 'green'}]{text}[/]", highlight=False)


def _outputs(check: Check) -> dict[str, int]:
    return check.outputs


def _wrong(check: Check) -> dict[str, int]:
    return check.wrong

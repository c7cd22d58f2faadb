"""Where the portable kernels were measured to be faster than a framework's own MLP: regions of problems, as data.

From the 16-bit forward rows of an H200 (bench/results/h200/); tests/test_contract_measured.py holds the two together.
"""

from dataclasses import dataclass
from math import inf
from typing import Literal

from .problem import Problem


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """The problems within all of the limits. ``rows`` and ``megabytes`` (of weights): first to last. ``widest``: the
    largest of the three widths; ``longest``: the longer of the two sums; ``multiple``: what both sums' lengths are
    multiples of. ``gain``: how many times as fast as the library, as measured."""

    gain: str
    rows: tuple[float, float] = (0, inf)
    megabytes: tuple[float, float] = (0, inf)
    widest: float = inf
    longest: float = inf
    multiple: int = 1
    gated: bool = False

    def holds(self, problem: Problem) -> bool:
        sums = problem.in_features, problem.hidden_features
        return (
            self.rows[0] <= problem.m <= self.rows[1]
            and self.megabytes[0] <= problem.weight_bytes / 1e6 <= self.megabytes[1]
            and max(*sums, problem.out_features) <= self.widest
            and max(sums) <= self.longest
            and not any(length % self.multiple for length in sums)
            and problem.gated >= self.gated
        )

    def __str__(self) -> str:
        limits = [
            ("gated", self.gated),
            (_span("rows", self.rows), self.rows != (0, inf)),
            (_span("MB of weights", self.megabytes), self.megabytes != (0, inf)),
            (f"no width above {self.widest}", self.widest < inf),
            (f"no sum longer than {self.longest}", self.longest < inf),
            (f"sums in multiples of {self.multiple}", self.multiple > 1),
        ]
        return f"{', '.join(text for text, given in limits if given)} ({self.gain} times)"


def _span(unit: str, span: tuple[float, float]) -> str:
    first, last = span
    if last == inf:
        return f"{first:g} {unit} or more"
    return f"{first:g} to {last:g} {unit}" if first else f"at most {last:g} {unit}"


# Few rows are bound by reading the weights, and one wave of programs must keep enough bytes in flight for it: small
# layers, masked K loops and long sums in one chain do not. The other limits are where the measured rows part.
FASTER: dict[Literal["torch", "xla"], tuple[Region, ...]] = {
    "torch": (
        Region(widest=128, gain="1.3 to 1.5"),
        Region(rows=(0, 1), longest=8192, multiple=256, gain="1.0 to 1.4"),
        Region(rows=(2, 16), megabytes=(24, inf), longest=8192, multiple=256, gain="1.2 to 1.4"),
        Region(rows=(17, 64), megabytes=(24, inf), longest=8192, multiple=256, gated=True, gain="1.0 to 1.1"),
    ),
    "xla": (
        Region(widest=128, gain="1.1"),
        Region(rows=(0, 1), megabytes=(0, 24), gain="1.2 to 1.7"),
        Region(rows=(17, 64), megabytes=(64, inf), longest=8192, multiple=256, gain="1.1 to 1.2"),
        Region(rows=(17, 64), megabytes=(64, inf), multiple=256, gated=True, gain="1.0 to 1.2"),
    ),
}

"""Where the kernels were measured to be faster than a framework's own MLP: regions of problems, as data.

From the 16-bit rows of an H200 (bench/results/h200/), for decode/hopper of an H100 (bench/results/h100/);
tests/test_contract_measured.py holds regions and rows together. A plan of a training region is differentiable once.
"""

from dataclasses import dataclass
from math import inf
from typing import Literal

from .problem import Problem


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """The problems within all of the limits, and the ``plan`` for them, strategy/backend. ``rows`` and ``megabytes``
    (of weights): first to last. ``widest``: the largest of the three widths; ``longest``: the longer of the two sums;
    ``multiple``: what both sums' lengths are multiples of; ``training``: a forward and its backward pass, else a
    forward pass alone. ``gain``: how many times as fast as the library, as measured."""

    plan: str
    gain: str
    rows: tuple[float, float] = (0, inf)
    megabytes: tuple[float, float] = (0, inf)
    widest: float = inf
    longest: float = inf
    multiple: int = 1
    gated: bool = False
    training: bool = False

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
            ("training", self.training),
            ("gated", self.gated),
            (_span("rows", self.rows), self.rows != (0, inf)),
            (_span("MB of weights", self.megabytes), self.megabytes != (0, inf)),
            (f"no width above {self.widest}", self.widest < inf),
            (f"no sum longer than {self.longest}", self.longest < inf),
            (f"sums in multiples of {self.multiple}", self.multiple > 1),
        ]
        return f"{self.plan}: {', '.join(text for text, given in limits if given)} ({self.gain} times)"


def _span(unit: str, span: tuple[float, float]) -> str:
    first, last = span
    if last == inf:
        return f"{first:g} {unit} or more"
    return f"{first:g} to {last:g} {unit}" if first else f"at most {last:g} {unit}"


# The first that holds and whose plan can run is taken. Few rows are bound by reading the weights, and one wave of
# portable programs must keep enough bytes in flight for it: small layers, masked K loops and long sums in one chain do
# not. The other limits are where the measured rows part. In jax a decode plan must be asked for: it hangs where XLA
# does not run a device's kernels one after the other, a risk that only a caller can take.
FASTER: dict[Literal["torch", "xla"], tuple[Region, ...]] = {
    "torch": (
        Region(plan="decode/hopper", rows=(0, 16), megabytes=(24, inf), gain="1.0 to 1.3"),
        Region(plan="decode/hopper", rows=(17, 64), megabytes=(24, 150), gain="1.0"),
        Region(plan="decode/hopper", rows=(17, 64), megabytes=(24, inf), gated=True, gain="1.0"),
        Region(plan="tiled/portable", widest=128, gain="1.3 to 1.5"),
        Region(plan="tiled/portable", rows=(0, 1), longest=8192, multiple=256, gain="1.0 to 1.4"),
        Region(
            plan="tiled/portable", rows=(2, 16), megabytes=(24, inf), longest=8192, multiple=256, gain="1.2 to 1.4"
        ),
        Region(
            plan="tiled/portable", rows=(17, 64), megabytes=(24, inf), longest=8192, multiple=256, gated=True,
            gain="1.0 to 1.1",
        ),
        Region(plan="tiled/hopper", rows=(256, 511), megabytes=(150, 200), gated=True, gain="1.1"),
        Region(plan="tiled/hopper", rows=(512, inf), megabytes=(200, inf), gain="1.0 to 1.2"),
        Region(plan="tiled/hopper", rows=(2048, inf), megabytes=(150, 200), gain="1.0 to 1.1"),
        Region(plan="tiled/hopper", rows=(4096, inf), megabytes=(150, inf), training=True, gain="1.04 to 1.1"),
    ),
    "xla": (
        Region(plan="tiled/portable", widest=128, gain="1.1"),
        Region(plan="tiled/portable", rows=(0, 1), megabytes=(0, 24), gain="1.2 to 1.7"),
        Region(
            plan="tiled/portable", rows=(17, 64), megabytes=(64, inf), longest=8192, multiple=256, gain="1.1 to 1.2"
        ),
        Region(plan="tiled/portable", rows=(17, 64), megabytes=(64, inf), multiple=256, gated=True, gain="1.0 to 1.2"),
        Region(plan="tiled/hopper", rows=(128, 255), megabytes=(150, 200), gated=True, gain="1.3"),
        Region(plan="tiled/hopper", rows=(256, 1024), megabytes=(150, inf), gated=True, gain="1.0 to 1.7"),
    ),
}  # fmt: skip

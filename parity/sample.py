"""Which outputs of a layer are emulated: all of a small one; of a large one rows and columns from everywhere in it, so
that tiles at the edges, and those that some kernel adds otherwise, are among them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .adder import Adder
from .contract.problem import Problem
from .emulator import gemm
from .epilogue import Recipe, linear, stages
from .oracle import Stages
from .tree import Tree

# The second GEMM's left operand among a runner's stages: all of h in the rows that are looked at.
LEFT = "left"
# Of y, where the hidden layer is taken whole.
COLUMNS = 512


@dataclass(frozen=True, slots=True)
class Sample:
    """The rows, and the columns of the hidden layer and of y, that are looked at."""

    rows: np.ndarray
    hidden: np.ndarray
    out: np.ndarray

    @classmethod
    def of(cls, problem: Problem, products: float) -> "Sample":
        """About as many rows as columns, for at most so many ``products`` a GEMM."""
        k, h, n = problem.in_features, problem.hidden_features, problem.out_features
        side = math.sqrt(products / max(k, h))
        count = max(1, min(problem.m, int(max(side, min(products / (k * h), products / (h * n))))))
        columns = (drawn(size, int(products / (length * count))) for size, length in ((h, k), (n, h)))
        return cls(drawn(problem.m, count), *columns)

    @classmethod
    def of_rows(cls, problem: Problem, products: float) -> "Sample":
        """All of the hidden layer in some rows, two at least, so that y can be made from x; for about so many
        ``products``."""
        out = drawn(problem.out_features, COLUMNS)
        a_row = problem.hidden_features * (problem.in_features * (1 + problem.gated) + len(out))
        rows = drawn(problem.m, max(2, int(products / a_row)))
        return cls(rows, np.arange(problem.hidden_features), out)

    def operands(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The operands of these outputs."""
        found = {}
        for name, array in arrays.items():
            columns = self.out if name.endswith("_down") else self.hidden
            found[name] = array[self.rows] if name == "x" else array[..., columns]
        return found

    def stages(self, taps: Stages) -> Stages:
        """These outputs of each stage, and LEFT."""
        found = {
            stage: tap[np.ix_(self.rows, self.out if stage == "y" else self.hidden)] for stage, tap in taps.items()
        }
        return found | {LEFT: taps["h"][self.rows]}


def drawn(size: int, count: int) -> np.ndarray:
    """``count`` of ``size`` indices, two at least and all at most, the first and the last one among them; the same for
    the same arguments."""
    count = max(2, count)
    if count >= size:
        return np.arange(size)
    inner = np.random.default_rng([size, count]).choice(np.arange(1, size - 1), count - 2, replace=False)
    return np.sort(np.concatenate([[0, size - 1], inner]))


@dataclass(frozen=True, slots=True)
class Emulation:
    """The emulator on a ``sample`` of one problem, of whose ``arrays`` it has what is needed. It sums nothing twice:
    most recipes differ in what comes after a sum."""

    problem: Problem
    arrays: Mapping[str, np.ndarray]
    sample: Sample
    _known: dict[tuple, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @classmethod
    def on(cls, problem: Problem, arrays: Mapping[str, np.ndarray], sample: Sample) -> "Emulation":
        return cls(problem, sample.operands(arrays), sample)

    def linear(self, recipe: Recipe, layer: str, left: np.ndarray) -> np.ndarray:
        """``left w + b`` of one layer (up, gate or down), in float32."""
        return linear(self.problem, self.arrays, recipe, layer, left, self._summed)

    def stages(self, recipe: Recipe) -> Stages:
        """Every stage from the operands on; of a sample that has all of the hidden layer."""
        return stages(self.problem, self.arrays, recipe, self._summed)

    def _summed(
        self, left: np.ndarray, w: np.ndarray, order: Tree, adder: Adder, *, start: np.ndarray | None
    ) -> np.ndarray:
        # What is kept with the answer keeps its id; a start is its layer's bias.
        key = id(left), id(w), order, adder, start is None
        if key not in self._known:
            self._known[key] = left, gemm(left, w, order, adder, start=start)
        return self._known[key][1]

"""Tiles of strategy ``tiled`` on Hopper: which there are, what they need, and the ones that should suit a launch."""

import math
from dataclasses import dataclass
from typing import Literal

from .problem import Device, Problem
from .tiles import Tiles

# A step along K: 128 bytes, what one swizzle spans.
DEPTH = 64
# The rows and columns of a tile that a warpgroup finishes at a time: what one wgmma has rows, and 128 bytes of each.
PART = 64, 64
# Rows of tiles that share their columns' operand in L2; what is taken unless measured: the best on the whole of the
# tables, of both cards and both twins. The hidden layer's gradient reads and writes more beside its operands.
GROUPS = 2, 3, 4, 8, 16
_GROUP, _GROUP_OF_GRADIENTS = 4, 8
# The steps by which the first warpgroup is ahead of the second, so that one multiplies while the other finishes a tile.
LAG = 2
# Float32 sums that one warpgroup holds in registers, with room for an epilogue.
_SUMS = 128 * 128
# Shared memory for barriers and what the compiler keeps.
_KEPT = 2048
# The most bytes an element that are staged: of y, and of s and u in float32.
_STAGED = 10
# The fewest slots of a ring: with less, the tensor cores wait; and the most: more are of no use.
_FEWEST, _MOST = 3, 6
# (rows, columns of all weights) -> by library, whose twin compiles it, the rate of the tensor cores in it, of the best
# tile's: smaller tiles bring more bytes from L2 for each product. Those that lose the least against the tables.
_RATES = {
    (128, 256): {"torch": 1.0, "xla": 1.0},
    (128, 128): {"torch": 0.98, "xla": 0.94},
    (128, 64): {"torch": 0.6, "xla": 0.6},
}
# Where both warpgroups share a tile, the ring of operands does not last for what follows the sums: as if they had so
# many terms more, and twice as many where every sum is activated. (Of two weights' sums half are.)
_EXPOSED = 192


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One launch, by what its time hangs on: ``[rows, outer]`` sums of ``inner`` terms and what is made of them.

    ``kind``: "linear" adds a bias at most, "activated" applies an activation too, "hidden_bwd" is the hidden layer's
    gradient, "input_bwd" and "weight_bwd" are products whose left operand has rows along the result or along the sum.
    ``gated``: two weights, the gate's gradient too, or two products added.
    """

    kind: Literal["linear", "activated", "hidden_bwd", "input_bwd", "weight_bwd"]
    rows: int
    outer: int
    inner: int
    gated: bool = False

    @classmethod
    def linear(cls, rows: int, outer: int, inner: int, *, activation: str, gated: bool) -> "Work":
        """That of a ``linear`` launch."""
        bare = activation == "identity" and not gated
        return cls(kind="linear" if bare else "activated", rows=rows, outer=outer, inner=inner, gated=gated)

    @property
    def weights(self) -> int:
        """Sums of an element that are held at once."""
        return 2 if self.gated and self.kind == "activated" else 1

    @property
    def terms(self) -> int:
        """Those of an element's sums, added up."""
        return self.inner * (2 if self.gated and self.kind == "input_bwd" else 1)

    @property
    def turns(self) -> bool:
        """Whether only tiles of one warpgroup each serve: they hide an epilogue as long as the sums themselves."""
        return self.kind == "hidden_bwd"

    def __str__(self) -> str:
        return f"{self.kind} {self.rows}x{self.outer}x{self.inner}" + " gated" * self.gated


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiling:
    """Tiles, and how many rows of them share their columns' operand in L2. Neither changes a bit of a result."""

    tiles: Tiles
    group_m: int

    @classmethod
    def parse(cls, text: str) -> "Tiling":
        """What ``str`` wrote."""
        sizes, _, group_m = text.partition("/")
        m, n, k = map(int, sizes.split("x"))
        return cls(tiles=Tiles(m=m, n=n, k=k), group_m=int(group_m))

    def __str__(self) -> str:
        return f"{self.tiles}/{self.group_m}"


def forward_of(problem: Problem) -> tuple[Work, Work]:
    """The two launches of a forward pass."""
    m, k, h, n = problem.m, problem.in_features, problem.hidden_features, problem.out_features
    up = Work.linear(m, h, k, activation=problem.activation, gated=problem.gated)
    return up, Work(kind="linear", rows=m, outer=n, inner=h)


def backward_of(problem: Problem, library: str) -> tuple[Work, ...]:
    """The launches of its gradients, each once; a weight's as the library's framework keeps it, ``[out, in]`` in torch,
    else ``[in, out]``."""
    m, k, h, n = problem.m, problem.in_features, problem.hidden_features, problem.out_features
    found = [
        Work(kind="hidden_bwd", rows=m, outer=h, inner=n, gated=problem.gated),
        Work(kind="input_bwd", rows=m, outer=k, inner=h, gated=problem.gated),
    ]
    weights = ((n, h), (h, k)) if library == "torch" else ((h, n), (k, h))
    found += [Work(kind="weight_bwd", rows=a, outer=b, inner=m) for a, b in weights]
    return tuple(dict.fromkeys(found))


def shared(tiles: Tiles, weights: int) -> bool:
    """Whether both warpgroups compute a tile, each half of its rows; else each computes its own."""
    return tiles.m * tiles.n * weights > _SUMS


def cluster_of(tiles: Tiles, work: Work) -> int:
    """How many programs form a cluster in Mosaic, whose tiles lie one below the other and whose right operand is
    brought once for all: tiles of one warpgroup each ask L2 for more than it gives, unless two do. Of an odd row of
    tiles one would compute nothing."""
    return 1 if shared(tiles, work.weights) or -(work.rows // -tiles.m) % 2 else 2


def slots(tiles: Tiles, weights: int, staged: int, device: Device) -> int:
    """Slots of the ring of operands beside the staging of a part of the columns, so many bytes an element of it."""
    slot = (tiles.m + weights * tiles.n) * tiles.k * 2
    return min(_MOST, (device.smem_bytes - _KEPT - 2 * PART[0] * PART[1] * staged) // slot)


def unfit(tiles: Tiles, work: Work, device: Device) -> str | None:
    """Why these tiles cannot be, None if they can: the one such predicate, of registers and of shared memory. A plan's
    tiles, a table's, a tuner's candidates and a launch are all held to it."""
    known = _known(work)
    if tiles not in known:
        return f"tiles {tiles} are none of {', '.join(map(str, known))}"
    found = slots(tiles, work.weights, _STAGED, device)
    if found < _FEWEST:
        return f"tiles {tiles} leave room for {found} slots of a ring in {device.smem_bytes} bytes, not {_FEWEST}"
    return None


def candidates(work: Work, device: Device, slack: float = math.inf) -> list[Tiling]:
    """Every tiling there is, each order of tiles once: where there are fewer rows of tiles than share an operand, or
    where programs form clusters, one number of them is as another, and the model's stands for all. ``slack``: only of
    tiles that should take at most so many times as long as the model's."""
    fit = [tiles for tiles in _known(work) if not unfit(tiles, work, device)]
    costs = {tiles: _cost(tiles, work, device) for tiles in fit}
    found = []
    for tiles in (tiles for tiles in fit if costs[tiles] <= slack * min(costs.values())):
        together = cluster_of(tiles, work) if device.library == "xla" else 1
        rows = -(work.rows // -tiles.m) // together
        orders = {min(max(group // together, 1), rows): group for group in (*GROUPS, _group(work))}
        found += [Tiling(tiles=tiles, group_m=group) for group in orders.values()]
    return found


def modelled(work: Work, device: Device) -> Tiling:
    """The tiling that should let the least time pass. Knows nothing of a device but the number of its processors, so
    that it serves any."""
    tiles = min(_known(work), key=lambda tiles: _cost(tiles, work, device))
    return Tiling(tiles=tiles, group_m=_group(work))


def _cost(tiles: Tiles, work: Work, device: Device) -> float:
    """Rounds of all processors, times what a tile of that size takes; in no unit."""
    count = -(work.rows // -tiles.m) * -(work.outer // -tiles.n)
    columns = work.weights * tiles.n
    exposed = _EXPOSED * (2 if work.kind == "activated" and not work.gated else 1)
    terms = work.terms + exposed * shared(tiles, work.weights)
    return -(count // -device.sm_count) * tiles.m * columns * terms / _RATES[tiles.m, columns][device.library]


def _group(work: Work) -> int:
    """The model's ``group_m``."""
    return _GROUP_OF_GRADIENTS if work.kind == "hidden_bwd" else _GROUP


def _known(work: Work) -> list[Tiles]:
    """Tiles whose sums the registers hold: of both warpgroups, or, in turns, of each."""
    cut = [
        Tiles(m=m, n=columns // work.weights, k=DEPTH) for m, columns in _RATES if columns // work.weights >= PART[1]
    ]
    return [tiles for tiles in cut if not (work.turns and shared(tiles, work.weights))]

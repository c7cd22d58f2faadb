"""Medians, how sure they are, and whether two of them differ."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

DRAWS = 1000
MARGIN = 0.02

Blocks = Sequence[Sequence[float] | np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A median with its bootstrap 95 % interval, and the medians of the blocks it came from."""

    median: float
    low: float
    high: float
    blocks: tuple[float, ...] = ()

    def as_json(self) -> dict:
        return {k: [round(b, 4) for b in v] if k == "blocks" else round(v, 4) for k, v in asdict(self).items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The ratio of two medians, b over a, and what may be said of it."""

    ratio: float
    low: float
    high: float
    verdict: str


def estimate(blocks: Blocks, seed: int = 0) -> Estimate:
    """The median of all samples. The interval redraws blocks first and then samples within each, because samples of
    one block share a clock and a temperature. Raises ValueError without a sample."""
    kept = [np.asarray(b, float) for b in blocks if len(b)]
    if not kept:
        raise ValueError("no sample was taken")
    rng = np.random.default_rng(seed)
    medians = _medians(kept, rng.integers(len(kept), size=(DRAWS, len(kept))), rng)
    low, high = np.quantile(medians, [0.025, 0.975])
    return Estimate(
        median=float(np.median(np.concatenate(kept))),
        low=float(low),
        high=float(high),
        blocks=tuple(float(np.median(b)) for b in kept),
    )


def compare(a: Blocks, b: Blocks, margin: float = MARGIN, seed: int = 0) -> Comparison:
    """b against a. SAME: the whole interval of the ratio is within ``margin`` of 1. SLOWER and FASTER: it lies on
    one side of 1 (and is not all inside the margin). UNCLEAR: neither; more samples are needed.

    Block i of a and block i of b ran next to each other, so a draw takes both or neither: drift cancels.
    """
    kept = [(x, y) for x, y in zip(a, b, strict=True) if len(x) and len(y)]
    if not kept:
        raise ValueError("no sample was taken")
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(kept), size=(DRAWS, len(kept)))
    ratios = _medians([y for _, y in kept], drawn, rng) / _medians([x for x, _ in kept], drawn, rng)
    low, high = (float(q) for q in np.quantile(ratios, [0.025, 0.975]))
    ratio = float(np.median(np.concatenate([y for _, y in kept])) / np.median(np.concatenate([x for x, _ in kept])))
    return Comparison(ratio=ratio, low=low, high=high, verdict=verdict(low, high, margin))


def verdict(low: float, high: float, margin: float = MARGIN) -> str:
    """The word for a ratio whose interval is [low, high]."""
    if 1 - margin <= low and high <= 1 + margin:
        return "SAME"
    if low > 1:
        return "SLOWER"
    return "FASTER" if high < 1 else "UNCLEAR"


def _medians(blocks: Blocks, drawn: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The median of each draw: blocks by their numbers in ``drawn`` ``[draws, blocks]``, samples afresh from each."""
    widest = max(len(b) for b in blocks)
    table = np.zeros((len(blocks), widest))
    sizes = np.array([len(b) for b in blocks])
    for row, b in zip(table, blocks, strict=True):
        row[: len(b)] = b
    samples = (rng.random((*drawn.shape, widest)) * sizes[drawn][..., None]).astype(int)
    return np.median(table[drawn[..., None], samples].reshape(len(drawn), -1), axis=1)

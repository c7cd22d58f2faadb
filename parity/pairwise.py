"""Covering choices: rows in which every pair of values of every two factors occurs, far fewer than the full product."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import combinations, product

import numpy as np

Row = dict[str, Hashable]


def cover(
    factors: Mapping[str, Sequence[Hashable]],
    crossed: Iterable[str],
    allowed: Callable[[Row], bool] = lambda row: True,
) -> list[Row]:
    """Rows with one value a factor: the full product of the ``crossed`` factors, the others spread over it greedily.

    Rows are added until each pair of values of two factors that occurs together in any ``allowed`` row occurs in one
    that is listed. Deterministic: ties go to the first in order.
    """
    crossed = list(crossed)
    rows = [dict(zip(factors, values, strict=True)) for values in product(*factors.values())]
    rows = [row for row in rows if allowed(row)]
    numbers = [{value: i for i, value in enumerate(values)} for values in factors.values()]
    codes = np.array([[of[value] for of, value in zip(numbers, row.values(), strict=True)] for row in rows])
    pairs = _pairs(codes)
    left = np.zeros(pairs.max() + 1, bool)
    left[pairs] = True
    others = [i for i, name in enumerate(factors) if name not in crossed]
    used = np.zeros((len(numbers), codes.max() + 1), int)
    grouped: dict[tuple[Hashable, ...], list[int]] = {}
    for index, row in enumerate(rows):
        grouped.setdefault(tuple(row[name] for name in crossed), []).append(index)
    chosen = []

    def take(candidates: np.ndarray) -> None:
        # Among the rows that cover most, the one whose values were used least: the factors stay balanced.
        covered = left[pairs[candidates]].sum(axis=1)
        spent = used[others, codes[candidates][:, others]].sum(axis=1)
        best = candidates[np.lexsort((spent, -covered))[0]]
        left[pairs[best]] = False
        used[others, codes[best, others]] += 1
        chosen.append(rows[best])

    for candidates in grouped.values():
        take(np.array(candidates))
    while left.any():
        take(np.arange(len(rows)))
    return chosen


def _pairs(codes: np.ndarray) -> np.ndarray:
    """A number for each pair of choices of each row of ``codes`` ``[rows, factors]``; the same pair has the same."""
    size = codes.max() + 1
    columns = list(combinations(range(codes.shape[1]), 2))
    return np.stack([(n * size + codes[:, i]) * size + codes[:, j] for n, (i, j) in enumerate(columns)], axis=1)

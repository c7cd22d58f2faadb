"""Covering choices: rows in which every pair of values of every two factors occurs, far fewer than the full product."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import combinations, product

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
    others = [name for name in factors if name not in crossed]
    rows = [dict(zip(factors, values, strict=True)) for values in product(*factors.values())]
    rows = [row for row in rows if allowed(row)]
    covers = [pairs(row) for row in rows]
    left = set().union(*covers)
    grouped: dict[tuple[Hashable, ...], list[int]] = {}
    for index, row in enumerate(rows):
        grouped.setdefault(tuple(row[name] for name in crossed), []).append(index)
    chosen = []
    used = {(name, value): 0 for name in others for value in factors[name]}

    def take(candidates: Iterable[int]) -> None:
        # Among the rows that cover most, the one whose values were used least: the factors stay balanced.
        def worth(index: int) -> tuple[int, int]:
            return len(covers[index] & left), -sum(used[name, rows[index][name]] for name in others)

        best = max(candidates, key=worth)
        left.difference_update(covers[best])
        for name in others:
            used[name, rows[best][name]] += 1
        chosen.append(rows[best])

    for candidates in grouped.values():
        take(candidates)
    while left:
        take(range(len(rows)))
    return chosen


def pairs(row: Row) -> set[tuple[tuple[str, Hashable], tuple[str, Hashable]]]:
    """Every two (factor, value) choices of ``row``."""
    return set(combinations(row.items(), 2))

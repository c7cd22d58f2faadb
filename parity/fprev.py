"""Which order a sum is taken in, found by asking only for sums: FPRev (Xie, Gao, Zhang; arXiv 2411.00442), in the
refined form that also finds nodes of many summands, with every answer checked against the tree found.

All summands are one unit, but for +mask at i and -mask at j. A partial sum that holds one mask swallows its units; so
what is left counts the units that never met one: n less the summands below the node at which i and j meet.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .tree import Tree

Sums = Callable[[np.ndarray], np.ndarray]


class UnsoundOrder(Exception):
    """The answers are those of no tree. The message says which answer, and what that may mean."""


@dataclass(frozen=True, slots=True)
class Masks:
    """``mask / unit`` must exceed what an adder keeps below its largest term, times the number of summands."""

    unit: float
    mask: float


MASKS = {
    "float32": Masks(1.0, 2.0**60),
    "bfloat16": Masks(1.0, 2.0**60),
    "float16": Masks(2.0**-24, 2.0**15),
}


class _Set(NamedTuple):
    first: int
    groups: list[tuple[np.ndarray, int]]
    largest: float


def order_of(sums: Sums, n: int, masks: Masks) -> Tree:
    """The order in which ``sums``, of each row of ``[q, n]``, adds. It is asked twice, the second time with masks a
    sixteenth as large and the rows in reverse: a mask too small, or an order that hangs on row or chance, shows.

    Raises UnsoundOrder where there is no one order to be found.
    """
    first = recover(n, lambda pairs: _meeting(sums, n, masks, pairs))
    smaller = Masks(masks.unit, masks.mask / 16)
    second = recover(n, lambda pairs: _meeting(lambda rows: sums(rows[::-1])[::-1], n, smaller, pairs))
    if first != second:
        raise UnsoundOrder(
            f"two orders were found, {first} ({first.digest}) and {second} ({second.digest}): the order is not "
            "deterministic, hangs on the row, or the masks are too small"
        )
    return first


def recover(n: int, meeting: Callable[[np.ndarray], np.ndarray]) -> Tree:
    """The tree whose counts ``meeting`` tells for pairs ``[q, 2]`` of summands; all that can be asked at once is.

    Raises UnsoundOrder where any answer is not the found tree's.
    """
    # Each set's first member, and by rising count those that meet it there: a summand, or the number of a later set.
    sets: list[_Set] = []
    asked, answers = [np.zeros((0, 2), int)], [np.zeros(0)]
    frontier = [np.arange(n)] if n > 1 else []
    while frontier:
        pairs = [np.stack([np.full(len(members) - 1, members[0]), members[1:]], axis=1) for members in frontier]
        asked.append(np.concatenate(pairs))
        answers.append(meeting(asked[-1]))
        split = np.split(answers[-1], np.cumsum([len(p) for p in pairs])[:-1])
        numbered, following = len(sets) + len(frontier), []
        for members, counts in zip(frontier, split, strict=True):
            groups = []
            for count in np.unique(counts):
                group = members[1:][counts == count]
                groups.append((group, numbered + len(following)))
                if len(group) > 1:
                    following.append(group)
            sets.append(_Set(members[0], groups, counts.max()))
        frontier = following
    tree = _assembled(n, sets)
    pairs, counts = np.concatenate(asked), np.concatenate(answers)
    wrong = np.flatnonzero(tree.counts()[pairs[:, 0], pairs[:, 1]] != counts)
    if len(wrong):
        (i, j), count = pairs[wrong[0]], counts[wrong[0]]
        raise UnsoundOrder(
            f"summands {i} and {j} seem to meet among {count} of {n}, which fits no tree ({len(wrong)} of "
            f"{len(pairs)} answers): the masks are too small, or the order changes from row to row"
        )
    return tree


def _assembled(n: int, sets: list[_Set]) -> Tree:
    children: dict[int, list[int]] = {}
    roots = dict.fromkeys(range(len(sets)), 0)
    for number in reversed(range(len(sets))):
        root = int(sets[number].first)
        for group, inner in sets[number].groups:
            one = len(group) == 1
            other = int(group[0]) if one else roots[inner]
            if one or sets[inner].largest == len(group):
                children[n + len(children)] = [root, other]
                root = n + len(children) - 1
            else:
                # These meet each other no earlier than they meet the rest: all are children of one node.
                children[other].append(root)
                root = other
        roots[number] = root
    return Tree.of(n, roots[0] if sets else 0, children)


def _meeting(sums: Sums, n: int, masks: Masks, pairs: np.ndarray) -> np.ndarray:
    rows = np.full((len(pairs), n), masks.unit)
    rows[np.arange(len(pairs)), pairs[:, 0]] = masks.mask
    rows[np.arange(len(pairs)), pairs[:, 1]] = -masks.mask
    left = sums(rows) / masks.unit
    odd = np.flatnonzero((left != np.rint(left)) | (left < 0) | (left > n - 2))
    if len(odd):
        i, j = pairs[odd[0]]
        raise UnsoundOrder(
            f"with masks at {i} and {j}, {left[odd[0]]} units of {n - 2} are left: what is asked is no plain sum"
        )
    return n - left

"""A zoo of orders of summation, each written once over any ``add``: of arrays, or of nodes of the true tree."""

import numpy as np

from parity.tree import Tree

F = np.float32


def chain(terms, add, width=1):
    total, rest = (terms[0], terms[1:]) if width == 1 else (None, terms)
    for i in range(0, len(rest), width):
        step = rest[i : i + width]
        total = add(*step) if total is None else add(total, *step)
    return total


def pairwise(terms, add, leaf=1):
    if len(terms) <= leaf:
        return chain(terms, add)
    half = len(terms) // 2
    return add(pairwise(terms[:half], add, leaf), pairwise(terms[half:], add, leaf))


def chains(terms, add, parts, width=1):
    size = -(-len(terms) // parts)
    return chain([chain(terms[i : i + size], add, width) for i in range(0, len(terms), size)], add)


def lanes(terms, add, count):
    return pairwise([chain(terms[i::count], add) for i in range(count)], add)


IEEE = {
    "ascending": chain,
    "descending": lambda terms, add: chain(terms[::-1], add),
    "pairwise": pairwise,
    "blocks of 8, pairwise": lambda terms, add: pairwise(terms, add, 8),
    "2 chains": lambda terms, add: chains(terms, add, 2),
    "3 chains": lambda terms, add: chains(terms, add, 3),
    "8 lanes": lambda terms, add: lanes(terms, add, 8),
    "4 lanes, then a tail": lambda terms, add: chain([lanes(terms[:-5], add, 4), *terms[-5:]], add),
}
FUSED = {
    "16+1": lambda terms, add: chain(terms, add, 16),
    "8+1": lambda terms, add: chain(terms, add, 8),
    "4+1": lambda terms, add: chain(terms, add, 4),
    "2 x 16+1": lambda terms, add: chains(terms, add, 2, 16),
    "3 x 16+1": lambda terms, add: chains(terms, add, 3, 16),
    "all at once": lambda terms, add: add(*terms),
}


def add_ieee(a, b):
    return a + b


def fused_adder(fraction):
    """A tensor core's: terms cut off ``fraction`` bits below the largest, the sum cut off to float32."""

    def add(*terms):
        parts = np.stack([np.asarray(t, float) for t in terms])
        _, exponent = np.frexp(np.abs(parts).max(axis=0))
        quantum = np.ldexp(1.0, exponent - 1 - fraction)
        exact = np.sum(np.trunc(parts / quantum) * quantum, axis=0)
        near = exact.astype(F)
        return np.where(np.abs(near.astype(float)) > np.abs(exact), np.nextafter(near, F(0)), near)

    return add


def sums(order, add):
    return lambda rows: np.asarray(order(list(rows.astype(F).T), add), float)


def truth(order, n):
    children = {}

    def add(*nodes):
        children[n + len(children)] = list(nodes)
        return n + len(children) - 1

    return Tree.of(n, order(list(range(n)), add), children)

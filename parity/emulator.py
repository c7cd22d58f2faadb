"""A GEMM emulated bit for bit: the tree of its summation (parity order finds it) walked with an adder's arithmetic.

A node that takes a product takes it as the adder does: one after the other, or fused. Sums of sums are IEEE float32.
So a tensor core's ``split_k = s`` is s fused chains over equal ranges of K, added in ascending order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .adder import Adder, F, add, add_fused, add_product, operand_exponents
from .contract.dtypes import DTYPES
from .contract.tiles import chain_length
from .tree import Tree

# Outputs under way at once: their terms, exponents and sums stay in a processor's own cache.
BLOCK = 32768


def ascending(n: int, *, chains: int = 1, terms: int = 1) -> Tree:
    """The contract's order: ``chains`` over equal ranges of K, each ascending and ``terms`` at once, then added."""
    length = chain_length(n, chains)
    return chained([(start, min(start + length, n)) for start in range(0, n, length)], terms)


def chained(ranges: Sequence[tuple[int, int]], terms: int = 1) -> Tree:
    """A chain for each of ``ranges``, ascending, and ``terms`` at once; the chains are added as they come."""
    n = max(stop for _, stop in ranges)
    children: dict[int, list[int]] = {}

    def node(*below: int) -> int:
        children[n + len(children)] = list(below)
        return n + len(children) - 1

    total = None
    for start, stop in ranges:
        # A chain's first summand is added to nothing: of a chain of one, that is all that tells it from a term.
        first = min(start + max(2, terms), stop)
        chain = node(*range(start, first))
        for k in range(first, stop, terms):
            chain = node(chain, *range(k, min(k + terms, stop)))
        total = chain if total is None else node(total, chain)
    assert total is not None
    return Tree.of(n, total, children)


def gemm(x: np.ndarray, w: np.ndarray, order: Tree, adder: Adder, *, start: np.ndarray | None = None) -> np.ndarray:
    """``x w`` in float32, ``x`` ``[m, k]`` and ``w`` ``[k, n]`` of any served dtype, summed in ``order`` by ``adder``.
    ``start`` ``[n]`` or ``[m, n]`` is what the first chain starts from instead of nothing.

    Raises ValueError where the order is not of k summands, or one that the adder cannot take.
    """
    if order.leaves != x.shape[1] or x.shape[1] != w.shape[0]:
        raise ValueError(f"the order has {order.leaves} summands, x is {x.shape} and w {w.shape}")
    if not adder.fused and any(len(children) > 2 for children in order.nodes):
        raise ValueError(f"the order {order} adds more than two at once, an IEEE adder adds two")
    left, right = (_Operand.of(values, adder) for values in (x, w))
    out = np.empty((len(x), w.shape[1]), F)
    rows = max(1, BLOCK // max(1, w.shape[1]))
    first = None if start is None else np.broadcast_to(start.astype(F), out.shape)
    with np.errstate(all="ignore"):
        for row in range(0, len(x), rows):
            part = slice(row, row + rows)
            out[part] = _walk(left.rows(part), right, order, adder, None if first is None else first[part])
    return out


@dataclass(frozen=True, slots=True)
class _Operand:
    values: np.ndarray
    exponents: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, adder: Adder) -> "_Operand":
        dtype = DTYPES.get(values.dtype.name, DTYPES["float32"])
        taken = adder.taken(values)
        return cls(taken.astype(np.float64), operand_exponents(taken, dtype.min_exponent))

    def rows(self, part: slice) -> "_Operand":
        return _Operand(self.values[part], self.exponents[part])


def _walk(left: _Operand, right: _Operand, order: Tree, adder: Adder, start: np.ndarray | None) -> np.ndarray:
    shape = (len(left.values), right.values.shape[1])
    found: dict[int, np.ndarray] = {}
    for i, children in enumerate(order.nodes or ((0,),)):
        leaves = [child for child in children if child < order.leaves]
        sums = [found.pop(child) for child in children if child >= order.leaves]
        if not sums and 0 in leaves and start is not None:
            sums = [start]
        if adder.fused and leaves:
            total = add_fused(
                adder, sums, left.values[:, leaves], right.values[leaves],
                left.exponents[:, leaves], right.exponents[leaves],
            )  # fmt: skip
        else:
            total = sums[0] if sums else np.zeros(shape, F)
            for other in sums[1:]:
                total = add(adder, total, other)
            for k in leaves:
                total = add_product(adder, total, left.values[:, k, None], right.values[k])
        found[order.leaves + i] = total
    return next(iter(found.values()))

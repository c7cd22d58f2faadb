"""What adds: how many bits a fused add keeps, how its sum is rounded, what becomes of subnormals and of float32's last
bits, whether product and sum are one. Asked of a GEMM whose order is known, by sums of which almost all cancels:

    big (where it arrives through the sum so far) + small terms (at the node that takes products) - big (after it)

What is left is exact in any dtype, and tells what the node made of the small terms; u is the ulp of big.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .contract.dtypes import DTYPES
from .order import Probe
from .rounding import round_to
from .session import Session
from .tree import Tree

# The s of each pair of rows of x and columns of w: [q, k] and [q, k] to [q].
Sums = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Half ulps, quarters, ... of big: so many equal terms sum to an ulp, if each is kept.
PARTS = (2, 4, 8, 16)
# Big is this squared: small enough for float16, large enough that no float16 of an ulp's parts is subnormal.
ROOT = 2.0**5
BIG, ULP = ROOT**2, ROOT**2 * 2.0**-23


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Of one runner's GEMM. ``terms``: products in one add, with the sum so far. ``fraction``: bits kept below the
    largest exponent, 23 at least; ``more`` may be. ``exponent``: a product's, "of its factors" or "its own". None: the
    order, or the type, does not let it be asked.
    """

    runner: str
    terms: int = 1
    fraction: int | None = None
    more: bool = False
    rounding: str | None = None
    exponent: str | None = None
    tf32: str | None = None
    subnormals: str | None = None
    product: str | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a node stands: its products, a summand that reaches it as part of a sum, one that is added after it."""

    products: tuple[int, ...]
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class _Question:
    """One sum, its terms as ``(summand, x, w)``, and what its result is counted in."""

    name: str
    terms: list[tuple[int, float, float]]
    unit: float = ULP


def examine(sums: Sums, order: Tree, dtype: str, runner: str = "") -> Facts:
    """The facts of a GEMM that adds in ``order``, of operands of ``dtype``; whatever becomes of tf32 is its affair."""
    place = _place(order)
    if place is None:
        return Facts(runner=runner, why="no product is added to a sum in this order")
    questions = [*_questions(place, dtype)]
    x, w = (np.zeros((len(questions), order.leaves)) for _ in range(2))
    for row, question in enumerate(questions):
        for summand, a, b in question.terms:
            x[row, summand], w[row, summand] = a, b
    units = np.array([question.unit for question in questions])
    left = dict(zip((q.name for q in questions), (sums(x, w).astype(float) / units).tolist(), strict=True))
    fused, asked = len(place.products) > 1, [part for part in PARTS if f"parts {part}" in left]
    kept = [part for part in asked if left[f"parts {part}"] == 1.0]
    # Kept down to one step, and none below it: otherwise what is left is no cutting off.
    fraction = 23 + len(kept) if fused and kept == asked[: len(kept)] else None
    rounding = _rounding(left) if not fused or (fraction or 0) >= 25 else None
    tf32 = _tf32(left) if dtype == "float32" else None
    return Facts(
        runner=runner,
        terms=len(place.products),
        fraction=fraction,
        more=fraction is not None and kept == asked,
        rounding=rounding,
        exponent=_exponent(left, fraction, rounding),
        tf32=tf32,
        subnormals=_subnormals(left),
        product=_product(left) if tf32 == "kept" and not fused else None,
    )


def _place(order: Tree) -> _Place | None:
    """The node that takes most products and what comes before and after it; a node of two summands if there is none."""
    above = {child: order.leaves + i for i, children in enumerate(order.nodes) for child in children}
    first = {leaf: leaf for leaf in range(order.leaves)}
    best: _Place | None = None
    for i, children in enumerate(order.nodes):
        node = order.leaves + i
        first[node] = first[children[0]]
        products = tuple(child for child in children if child < order.leaves)
        inner = [first[child] for child in children if child >= order.leaves]
        if node not in above or not products or (not inner and len(children) != 2):
            continue
        after = next(child for child in order.nodes[above[node] - order.leaves] if child != node)
        while after >= order.leaves:
            after = order.nodes[after - order.leaves][0]
        place = _Place(products, inner[0], after) if inner else _Place(products[1:], products[0], after)
        if best is None or len(place.products) > len(best.products):
            best = place
    return best


def _questions(place: _Place, dtype: str) -> Iterator[_Question]:
    first = place.products[0]

    def around(sign: float, terms: Sequence[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
        return [(place.before, sign * ROOT, ROOT), *terms, (place.after, -sign * ROOT, ROOT)]

    def small(summand: int, ulps: float) -> tuple[int, float, float]:
        # ulps times ULP, as a product of two numbers that float16 has.
        return summand, ulps * 2.0**-6, ULP * 2.0**6

    for part in PARTS:
        if 1 < len(place.products) >= part:
            yield _Question(f"parts {part}", around(1, [small(k, 1 / part) for k in place.products[:part]]))
    yield _Question("three quarters", around(1, [small(first, 0.75)]))
    yield _Question("one quarter", around(1, [small(first, 0.25)]))
    yield _Question("minus three quarters", around(-1, [small(first, -0.75)]))
    for fraction in (23, 24, 25):
        # The largest term is 1.5^2 of big, its exponent that of big or one more: then the others lose their last bit.
        count, size = 2 ** (fraction - 22), 1.0
        if fraction == 25 and len(place.products) <= count:
            count, size = 3, 3.0
        if len(place.products) > count:
            others = [small(k, size * 2.0 ** (23 - fraction)) for k in place.products[1 : count + 1]]
            edges = [(first, 1.5 * ROOT, 1.5 * ROOT), (place.after, -1.5 * ROOT, 1.5 * ROOT)]
            yield _Question(f"exponent {fraction}", [*edges, *others], 2 * ULP)
    if dtype == "float32":
        tie, above = 1 + 2.0**-11, 1 + 2.0**-11 + 2.0**-12
        yield _Question("tie", [(first, tie, 1.0)], 1.0)
        yield _Question("above a tie", [(first, above, 1.0)], 1.0)
        root = 1 + 2.0**-12
        yield _Question("product", [(place.before, -1 - 2.0**-11, 1.0), (first, root, root)], 2.0**-24)
    low = 2.0 ** (DTYPES[dtype].min_exponent - 4)
    lift = 2.0**8 if dtype == "float16" else 2.0**60
    yield _Question("subnormal input", [(first, low, lift)], low * lift)
    if dtype != "float16":
        yield _Question("subnormal result", [(first, 2.0**-65, 2.0**-65)], 2.0**-130)


def _rounding(left: dict[str, float]) -> str | None:
    found = left["three quarters"], left["one quarter"], left["minus three quarters"]
    known: dict[tuple[float, ...], str] = {
        (0, 0, 0): "toward zero",
        (1, 0, -1): "to nearest",
        (1, 1, 0): "up",
        (0, 0, -1): "down",
    }
    return known.get(found)


def _exponent(left: dict[str, float], fraction: int | None, rounding: str | None) -> str | None:
    # Rounded to nearest, the bits that are left over count as an ulp as well.
    found = left.get(f"exponent {fraction}") if rounding == "toward zero" or (fraction or 25) < 25 else None
    return {1.0: "of its factors", 0.0: "its own"}.get(found) if found is not None else None


def _tf32(left: dict[str, float]) -> str | None:
    one, next_ = 1.0, 1 + 2.0**-10
    found = left["tie"], left["above a tie"]
    known = {(one, one): "cut off", (one, next_): "to nearest even", (next_, next_): "to nearest, ties away"}
    return "kept" if found == (1 + 2.0**-11, 1 + 2.0**-11 + 2.0**-12) else known.get(found)


def _subnormals(left: dict[str, float]) -> str | None:
    found = {name: left[name] for name in ("subnormal input", "subnormal result") if name in left}
    if set(found.values()) == {1.0}:
        return "kept"
    return f"flushed ({', '.join(name for name, value in found.items() if value == 0)})"


def _product(left: dict[str, float]) -> str | None:
    return {1.0: "fma", 0.0: "rounded first"}.get(left["product"])


def facts_of(session: Session, probe: Probe, orders: dict[str, Tree]) -> Iterator[Facts]:
    """The facts of each runner's first GEMM, whose order is known, in the sizes of ``probe``."""
    problem = probe.problem("up")
    at_once = min(problem.m, problem.hidden_features)
    for runner, order in orders.items():
        failed: list[str] = []

        def sums(x: np.ndarray, w: np.ndarray, runner: str = runner, failed: list[str] = failed) -> np.ndarray:
            found = np.full(len(x), np.nan)
            for start in range(0, len(x), at_once):
                rows = slice(start, start + at_once)
                count = len(x[rows])
                left, right = np.zeros((problem.m, probe.k)), np.zeros((probe.k, problem.hidden_features))
                left[:count], right[:, :count] = x[rows], w[rows].T
                down = np.zeros((problem.hidden_features, problem.out_features))
                arrays = {"x": left, "w_up": right, "w_down": down}
                arrays = {name: round_to(array, probe.dtype) for name, array in arrays.items()}
                answer = session.ask(problem, arrays, probe.plan, [runner])
                if runner not in answer.stages:
                    failed.append(answer.errors[runner])
                    break
                found[rows] = np.diagonal(answer.stages[runner]["s"])[:count]
            return found

        facts = examine(sums, order, probe.dtype, runner)
        yield Facts(runner=runner, why=failed[0]) if failed else facts

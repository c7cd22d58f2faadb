"""In which order a sum is taken: a tree of its summands, said in words and named by a hash."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Tree:
    """``nodes[i]`` holds the children of node ``leaves + i``; a child below ``leaves`` is a summand, the last node the
    root. Two children are an addition; more are added at once, as tensor cores do.

    Canonical, so that equal orders are equal trees: children by their least summand, nodes after their children.
    """

    leaves: int
    nodes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, leaves: int, root: int, children: Mapping[int, Sequence[int]]) -> "Tree":
        """The tree below ``root``; ``children`` of each inner node, by any number from ``leaves`` on."""
        found, stack = [], [root]
        while stack:
            node = stack.pop()
            if node >= leaves:
                found.append(node)
                stack += children[node]
        least = {leaf: leaf for leaf in range(leaves)}
        for node in reversed(found):
            least[node] = min(least[child] for child in children[node])
        ordered = {node: sorted(children[node], key=least.__getitem__) for node in found}
        number, nodes = {leaf: leaf for leaf in range(leaves)}, []
        opened: list[tuple[int, bool]] = [(root, False)]
        while opened:
            node, done = opened.pop()
            if node < leaves:
                continue
            if done:
                number[node] = leaves + len(nodes)
                nodes.append(tuple(number[child] for child in ordered[node]))
            else:
                opened.append((node, True))
                opened += [(child, False) for child in reversed(ordered[node])]
        return cls(leaves, tuple(nodes))

    def counts(self) -> np.ndarray:
        """``[leaves, leaves]``: how many summands lie below the node at which two of them meet; 1 on the diagonal."""
        met = np.ones((self.leaves, self.leaves), np.int32)
        below = {leaf: np.array([leaf]) for leaf in range(self.leaves)}
        for i, children in enumerate(self.nodes):
            size = sum(len(below[child]) for child in children)
            seen = below.pop(children[0])
            for child in children[1:]:
                other = below.pop(child)
                met[np.ix_(seen, other)] = met[np.ix_(other, seen)] = size
                seen = np.concatenate([seen, other])
            below[self.leaves + i] = seen
        return met

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name this order."""
        return hashlib.sha256(repr((self.leaves, self.nodes)).encode()).hexdigest()[:12]

    def __str__(self) -> str:
        """``chain[8 x (16+acc)]``: eight times sixteen summands and the sum so far, at once; ``2 x ...``: so many equal
        parts, added one after the other; ``stride 4``: a chain takes each fourth summand."""
        shapes: dict[int, _Chain | _Parts] = {}
        for i, children in enumerate(self.nodes):
            shapes[self.leaves + i] = _shape(children, shapes)
        return str(shapes[self.leaves + len(self.nodes) - 1]) if self.nodes else "1"


@dataclass(frozen=True, slots=True)
class _Chain:
    """``runs`` of steps: (how often, so many summands each). ``stride``: between the summands of single steps, 0 where
    they have none."""

    runs: tuple[tuple[int, int], ...]
    last: int
    stride: int

    def step(self, leaves: Sequence[int]) -> "_Chain":
        width, runs = len(leaves), self.runs
        stride = self.stride if width == 1 and leaves[0] - self.last == self.stride else 0
        if width == 1 and runs == ((1, 2),):
            runs = ((2, 1),)
        count, steps = runs[-1]
        runs = (*runs[:-1], (count + 1, steps)) if steps == width else (*runs, (1, width))
        return _Chain(runs, leaves[-1], stride)

    def __str__(self) -> str:
        if len(self.runs) == 1 and self.runs[0][0] == 1:
            return str(self.runs[0][1])
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f"chain[{', '.join(f'{count} x ({width}+acc)' for count, width in self.runs)}{stride}]"


@dataclass(frozen=True, slots=True)
class _Parts:
    texts: tuple[str, ...]
    at_once: bool

    def __str__(self) -> str:
        if len(set(self.texts)) > 1:
            return f"({' + '.join(self.texts)})"
        return f"{len(self.texts)} x {self.texts[0]}" + " at once" * self.at_once


def _shape(children: tuple[int, ...], shapes: Mapping[int, "_Chain | _Parts"]) -> "_Chain | _Parts":
    single = [child for child in children if child not in shapes]
    if len(single) == len(children):
        return _Chain(((1, len(children)),), children[-1], children[1] - children[0] if len(children) == 2 else 0)
    first = shapes.get(children[0])
    if len(single) == len(children) - 1 and isinstance(first, _Chain):
        return first.step(single)
    texts = tuple(str(shapes[child]) if child in shapes else "1" for child in children)
    if isinstance(first, _Parts) and len(children) == 2 and not first.at_once and set(first.texts) == {texts[1]}:
        return _Parts((*first.texts, texts[1]), False)
    return _Parts(texts, len(children) > 2)

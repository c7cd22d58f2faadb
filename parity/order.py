"""``parity order``: in which order each runner's two GEMMs add, asked of the workers by chosen operands alone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from .contract.plan import Plan
from .contract.problem import Problem
from .fprev import MASKS, UnsoundOrder, order_of
from .rounding import round_to
from .session import RUNNERS, Session
from .tree import Tree

SCHEMA = "parity.order/1"

Gemm = Literal["up", "down"]
GEMMS: tuple[Gemm, ...] = ("up", "down")
# The columns a probe looks at: more than one tile of the smallest, and no whole number of them.
COLUMNS = 40
# Up to how many units a result is exact in the operands' type, in which a framework's own stages are.
EXACT = {"float32": 2**24, "float16": 2**11, "bfloat16": 2**8}


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Which GEMMs are asked: of ``m`` rows that sum over ``k``, in ``dtype`` and ``precision``, under ``plan``;
    ``columns`` is how many results a row has.

    Raises ValueError for a type or precision that is not served, or where more units may be left than ``dtype``
    counts exactly.
    """

    k: int
    m: int
    dtype: str
    precision: str
    plan: Plan
    columns: int = COLUMNS

    def __post_init__(self) -> None:
        self.problem("up")
        if self.k > EXACT[self.dtype]:
            raise ValueError(f"k is {self.k}, must be at most {EXACT[self.dtype]}: {self.dtype} counts no further")

    def problem(self, gemm: Gemm) -> Problem:
        """The MLP whose ``gemm`` has ``k`` summands and whose other one hands on what it is given."""
        return Problem(
            m=self.m,
            in_features=self.k,
            hidden_features=self.columns if gemm == "up" else self.k,
            out_features=self.columns,
            activation="identity",
            dtype=self.dtype,
            precision=self.precision,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GemmOrder:
    """One GEMM's order, or why it has none."""

    runner: str
    gemm: str
    order: Tree | None
    why: str = ""
    questions: int = 0

    def __str__(self) -> str:
        return str(self.order) if self.order else self.why


def orders(session: Session, probe: Probe, runners: Iterable[str] = tuple(RUNNERS)) -> Iterator[GemmOrder]:
    """Each runner's two orders, as they are found."""
    for runner in runners:
        for gemm in GEMMS:
            yield find(session, probe, runner, gemm)


def find(session: Session, probe: Probe, runner: str, name: Gemm) -> GemmOrder:
    """The order of one GEMM of ``runner``."""
    gemm = _Gemm(session, probe, runner, name)
    found = GemmOrder(runner=runner, gemm=name, order=None)
    try:
        tree = order_of(gemm.sums, probe.k, MASKS[probe.dtype])
    except UnsoundOrder as error:
        return replace(found, why=str(error), questions=gemm.rows)
    return replace(found, order=tree, questions=gemm.rows)


def described(probe: Probe, found: Iterable[GemmOrder]) -> dict[str, Any]:
    """What was asked and found, for JSON: of each order its nodes' children, words and hash."""
    findings = [
        {
            "runner": one.runner,
            "gemm": one.gemm,
            "order": str(one.order) if one.order else None,
            "digest": one.order.digest if one.order else None,
            "nodes": one.order.nodes if one.order else None,
            "why": one.why,
            "questions": one.questions,
        }
        for one in found
    ]
    asked = {"k": probe.k, "m": probe.m, "columns": probe.columns, "dtype": probe.dtype, "precision": probe.precision}
    return {"probe": asked | {"split_k": probe.plan.split_k}, "findings": findings}


class _Gemm:
    """One runner's GEMM as a function of x's rows; the weights are ones (and, before the second GEMM, the identity)."""

    def __init__(self, session: Session, probe: Probe, runner: str, name: Gemm) -> None:
        self.session, self.probe, self.runner, self.name = session, probe, runner, name
        self.problem = probe.problem(name)
        self.rows = 0
        k, h, n = self.problem.in_features, self.problem.hidden_features, self.problem.out_features
        w_up = np.ones((k, h)) if name == "up" else np.eye(k)
        self.weights = {"w_up": round_to(w_up, probe.dtype), "w_down": round_to(np.ones((h, n)), probe.dtype)}

    def sums(self, rows: np.ndarray) -> np.ndarray:
        """What is left of each row of ``[q, k]``. The problem's rows stay as many as they are: how many there are may
        decide the order.

        Raises UnsoundOrder where a row's columns differ.
        """
        self.rows += len(rows)
        m = self.probe.m
        return np.concatenate([self._ask(rows[start : start + m]) for start in range(0, len(rows), m)])

    def _ask(self, rows: np.ndarray) -> np.ndarray:
        x = np.concatenate([rows, np.broadcast_to(rows[:1], (self.probe.m - len(rows), rows.shape[1]))])
        arrays = self.weights | {"x": round_to(x, self.probe.dtype)}
        answer = self.session.ask(self.problem, arrays, self.probe.plan, [self.runner])
        if self.runner not in answer.stages:
            raise UnsoundOrder(answer.errors[self.runner])
        left = answer.stages[self.runner]["s" if self.name == "up" else "y"].astype(float)[: len(rows)]
        if (left != left[:, :1]).any():
            row, column = np.argwhere(left != left[:, :1])[0]
            raise UnsoundOrder(f"row {row} adds otherwise in column {column} than in column 0")
        return left[:, 0]

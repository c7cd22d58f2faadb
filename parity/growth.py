"""How drift grows: with the length of a sum, against the laws of contract/tolerance.py, and with the depth of a stack.

Along K: the root mean square of a runner's error in s, in units of the products' root of squares R. A layer of a stack
is x + MLP(x), scaled to a root mean square of 1 in float64 on the host and rounded once: what differs is the runners'.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from . import stimulus
from .adder import HOPPER, IEEE, Adder
from .compare import unlike
from .contract.plan import Plan
from .contract.problem import Problem
from .contract.tolerance import chain_bound
from .emulator import ascending, gemm
from .rounding import round_tf32, round_to
from .session import Session

SEED = 7
# The result of a sum, small enough that a long one is quickly emulated.
ROWS, COLUMNS = 16, 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Along:
    """The errors of sums at one ``k``: of each runner, of emulated ones, and what the laws allow: ``walk`` grows with
    sqrt(k), ``worst`` with k, both for the arithmetic that the device has. ``failed``: runners that have none, and why.
    """

    k: int
    runners: dict[str, float]
    emulated: dict[str, float]
    walk: float
    worst: float
    failed: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Deep:
    """After ``depth`` layers: each pair's share of elements with other bits, and its relative distance. ``failed``:
    runners that came no further than the layer before, and why."""

    depth: int
    bits: dict[str, float]
    relative: dict[str, float]
    failed: dict[str, str]


def along_k(
    session: Session, problem: Problem, lengths: Sequence[int], tensor: bool, runners: Sequence[str]
) -> Iterator[Along]:
    """The problem's dtype and precision, summed over each of ``lengths``."""
    kind = "tf32" if problem.precision == "tf32" else problem.dtype
    core = HOPPER[kind] if kind != "float32" else HOPPER["tf32"]
    orders: dict[str, tuple[Adder, int]] = {"one chain, IEEE": (IEEE, 1)}
    if kind != "float32":
        orders |= {"one chain, tensor core": (core, 1), "4 chains, tensor core": (core, 4)}
    for k in lengths:
        asked = replace(
            problem, m=ROWS, in_features=k, hidden_features=COLUMNS, out_features=COLUMNS, activation="identity",
            gated=False, bias_up=False, bias_gate=False, bias_down=False,
        )  # fmt: skip
        arrays = stimulus.generate(asked, "normal", SEED)
        x, w = (round_tf32(arrays[n]) if kind == "tf32" else arrays[n] for n in ("x", "w_up"))
        wide, high = x.astype(np.float64), w.astype(np.float64)
        exact, root = wide @ high, np.sqrt(wide**2 @ high**2)
        bound = chain_bound(k, "tensor" if tensor and kind != "float32" else "ieee", core.terms)
        answer = session.ask(asked, arrays, Plan(), runners)
        emulated = {
            name: gemm(x, w, ascending(k, chains=chains, terms=adder.terms), adder)
            for name, (adder, chains) in orders.items()
        }
        yield Along(
            k=k,
            runners={name: _error(stages["s"], exact, root) for name, stages in answer.stages.items()},
            emulated={name: _error(s, exact, root) for name, s in emulated.items()},
            walk=bound.rms + bound.bias * float(np.mean(np.abs(exact)) / np.mean(root)),
            worst=bound.det * float(np.mean(np.abs(wide) @ np.abs(high)) / np.mean(root)),
            failed=answer.errors,
        )


def _error(s: np.ndarray, exact: np.ndarray, root: np.ndarray) -> float:
    return float(np.sqrt(np.mean((s.astype(np.float64) - exact) ** 2) / np.mean(root**2)))


def with_depth(session: Session, problem: Problem, depth: int, runners: Sequence[str]) -> Iterator[Deep]:
    """A stack of ``depth`` layers of ``problem``, as wide as its input; every runner goes on from its own output."""
    layer = replace(problem, out_features=problem.in_features)
    state: dict[str, np.ndarray] = {}
    for number in range(1, depth + 1):
        arrays = stimulus.generate(layer, "normal", SEED + number)
        # The first layer's x is the same for all: one question.
        asked = [([runner], x) for runner, x in state.items()] if number > 1 else [(list(runners), arrays["x"])]
        state, failed = {}, {}
        for some, x in asked:
            answer = session.ask(layer, arrays | {"x": x}, Plan(), some)
            failed |= answer.errors
            state |= {runner: _next(x, stages["y"], problem.dtype) for runner, stages in answer.stages.items()}
        yield _apart(number, state, failed)


def _next(x: np.ndarray, y: np.ndarray, dtype: str) -> np.ndarray:
    total = x.astype(np.float64) + y.astype(np.float64)
    scale = np.sqrt(np.mean(total**2, axis=1, keepdims=True))
    return round_to(total / np.maximum(scale, np.finfo(np.float32).tiny), dtype)


def _apart(depth: int, state: Mapping[str, np.ndarray], failed: dict[str, str]) -> Deep:
    bits, relative = {}, {}
    for a, b in combinations(state, 2):
        one, two = state[a], state[b]
        bits[f"{a} ~ {b}"] = float(unlike(one, two).mean())
        norm = np.linalg.norm(two.astype(np.float64))
        relative[f"{a} ~ {b}"] = float(np.linalg.norm(one.astype(np.float64) - two.astype(np.float64)) / norm)
    return Deep(depth=depth, bits=bits, relative=relative, failed=failed)

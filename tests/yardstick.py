"""What the twins' tests measure with: one problem drawn, its oracle, and the verdict on what a twin gives for it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from parity import stimulus
from parity.backward import after, evaluate_gradients
from parity.bounds import Allowance, Bounds, Profile, StageBound, between
from parity.compare import Comparison, compare
from parity.contract.activations import ACTIVATIONS
from parity.contract.plan import DECODE_ROWS, Plan
from parity.contract.problem import Problem
from parity.contract.tiles import Tiles
from parity.contract.tolerance import VERDICTS, Arithmetic
from parity.gpu import find_gpu
from parity.gradient_bounds import GradientBounds
from parity.oracle import Oracle, Stages, evaluate
from parity.pairwise import Row, cover
from parity.stimulus import generate

ARITHMETIC: Arithmetic = "ieee" if find_gpu() is None else "tensor"

# Not a multiple of any tile, one of everything, one more than a tile, nothing at all: (m, in, hidden, out).
SHAPES = {
    "primes": (37, 53, 67, 31),
    "ones": (1, 1, 1, 1),
    "one-over": (17, 33, 65, 17),
    "even": (16, 64, 32, 48),
    "tall": (97, 5, 7, 3),
    "empty": (0, 12, 20, 9),
}
SMALL, UNLIKE = Tiles(m=16, n=16, k=16), Tiles(m=32, n=16, k=32)
PLANS = {
    "auto": Plan(),
    "small": Plan(up=SMALL, down=UNLIKE),
    "split2": Plan(up=UNLIKE, down=SMALL, split_k=2),
    "split4-3": Plan(up=SMALL, down=SMALL, split_k=(4, 3)),
    "decode": Plan(strategy="decode"),
    "decode4-2": Plan(strategy="decode", split_k=(4, 2)),
}
PRECISIONS = {"fp32": ("float32", "ieee"), "tf32": ("float32", "tf32"), "fp16": ("float16", "ieee")}
if find_gpu() is not None:
    PRECISIONS["bf16"] = ("bfloat16", "ieee")


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One problem, the plan it is run by, its operands in the canonical ``[in, out]`` layout, and its oracle."""

    problem: Problem
    plan: Plan
    arrays: Mapping[str, np.ndarray]
    oracle: Oracle

    @property
    def options(self) -> dict:
        return {"activation": self.problem.activation, "precision": self.problem.precision, "plan": self.plan}

    def bounds(self, *, fused: bool = True, after: Stages | None = None) -> dict[str, StageBound]:
        bounds = Bounds(self.oracle, self.plan)
        found, exact = bounds.of(Profile(fused=fused, arithmetic=ARITHMETIC), after=after), bounds.exact()
        return {stage: between(found[stage], exact[stage]) for stage in found}

    def verdicts(self, found: Stages, *, fused: bool = True) -> dict[str, Comparison]:
        """Each stage of ``found`` against the oracle; of a fused run also each step alone, from its own input."""
        bounds = self.bounds(fused=fused)
        out = {stage: compare(found[stage], self.oracle.rounded[stage], bounds[stage]) for stage in found}
        if fused and {"s", "h", "y"} <= found.keys():
            alone = self.oracle.after(found)
            steps = self.bounds(after=alone)
            out |= {f"{stage} alone": compare(found[stage], alone[stage], steps[stage]) for stage in ("h", "y")}
        return out

    def check_gradients(self, found: Stages, save: str) -> None:
        """Each gradient against the oracle's, and against that of the runner's own previous stages."""
        dy = upstream(self)
        whole = evaluate_gradients(self.oracle, dy, save)
        bounds = GradientBounds(Bounds(self.oracle, self.plan), dy, whole)
        profile = Profile(fused=True, arithmetic=ARITHMETIC)
        alone = after(self.oracle, dy, found)
        own = {stage: between(a, none(a)) for stage, a in bounds.steps(profile, alone).items()}
        assert whole.keys() == alone.keys() == found.keys() - {"s", "u", "h"}
        for wanted, allowed in ((whole, bounds.whole(profile)), (alone, own)):
            for stage, bound in allowed.items():
                verdict = compare(found[stage], wanted[stage], bound)
                assert VERDICTS.index(verdict.verdict) <= VERDICTS.index("WITHIN_STAT"), (stage, verdict)

    def accepts(self, found: Stages, *, fused: bool = True) -> bool:
        worst = VERDICTS.index("WITHIN_STAT")
        return all(VERDICTS.index(v.verdict) <= worst for v in self.verdicts(found, fused=fused).values())

    def check(self, found: Stages, *, fused: bool = True) -> None:
        assert set(found) <= set(self.oracle.rounded)
        assert self.accepts(found, fused=fused), self.verdicts(found, fused=fused)


def none(like: Allowance) -> Allowance:
    """The allowance of what is exact."""
    zero = np.zeros(like.det.shape)
    return Allowance(det=zero, stat=zero, own=zero)


def draw(
    shape: tuple[int, int, int, int], *, biases: str = "", plan: Plan | None = None, kind: str = "normal",
    judged: bool = True, **fields,
) -> Draw:  # fmt: skip
    """A Draw of Problem(``shape``, ``fields``); ``biases`` are letters of u(p), g(ate), d(own). Not ``judged``: without
    an oracle, which takes long for large layers."""
    m, k, h, n = shape
    problem = Problem(
        m=m, in_features=k, hidden_features=h, out_features=n,
        bias_up="u" in biases, bias_gate="g" in biases, bias_down="d" in biases, **fields,
    )  # fmt: skip
    arrays = generate(problem, kind, seed=m + k + h + n)
    oracle: Any = evaluate(problem, arrays) if judged else None
    return Draw(problem=problem, plan=plan or Plan(), arrays=arrays, oracle=oracle)


def upstream(drawn: Draw) -> np.ndarray:
    """The gradient of y that a backward of ``drawn`` starts from."""
    return stimulus.upstream(drawn.problem, "normal", drawn.problem.m)


@cache
def rows() -> dict[str, Row]:
    """Every activation plain and gated; biases, precisions, shapes and plans pairwise with all of it. By name."""
    factors = {
        "activation": tuple(ACTIVATIONS),
        "gated": (False, True),
        "up": ("", "u"),
        "gate": ("", "g"),
        "down": ("", "d"),
        "precision": tuple(PRECISIONS),
        "shape": tuple(SHAPES),
        "plan": tuple(PLANS),
    }

    def allowed(row: Row) -> bool:
        few = SHAPES[str(row["shape"])][0] <= DECODE_ROWS
        return (row["gated"] or not row["gate"]) and (few or PLANS[str(row["plan"])].strategy != "decode")

    found = cover(factors, ("activation", "gated"), allowed)
    return {"-".join(str(value) for value in row.values()): row for row in found}


def draw_row(name: str) -> Draw:
    row = rows()[name]
    dtype, precision = PRECISIONS[str(row["precision"])]
    return draw(
        SHAPES[str(row["shape"])], biases=f"{row['up']}{row['gate']}{row['down']}", plan=PLANS[str(row["plan"])],
        activation=str(row["activation"]), gated=bool(row["gated"]), dtype=dtype, precision=precision,
    )  # fmt: skip


def mutants(drawn: Draw) -> dict[str, Draw]:
    """``drawn`` with one thing wrong each; a kernel that made it would give what a right one gives for these."""
    arrays, problem = dict(drawn.arrays), drawn.problem

    def with_zeros(name: str, index) -> Draw:
        changed = arrays[name].copy()
        changed[index] = 0
        return replace(drawn, arrays=arrays | {name: changed})

    def without(name: str) -> Draw:
        return replace(drawn, arrays={key: value for key, value in arrays.items() if key != name})

    found = {
        "last k dropped": with_zeros("x", (slice(None), -1)),
        "last hidden dropped": with_zeros("w_down", (-1, slice(None))),
        "last row not computed": with_zeros("x", (-1, slice(None))),
        "columns swapped": replace(drawn, arrays=arrays | {"w_up": arrays["w_up"][:, ::-1].copy()}),
        **{f"{name} skipped": without(name) for name in arrays if name.startswith("b_")},
    }
    if problem.gated:
        swapped = {"w_up": arrays["w_gate"], "w_gate": arrays["w_up"]}
        found["gate and up swapped"] = replace(drawn, arrays=arrays | swapped)
    twin = {"gelu": "gelu_tanh", "gelu_tanh": "gelu", "silu": "quick_gelu", "quick_gelu": "silu", "relu": "identity"}
    if problem.activation in twin:
        found["wrong activation"] = replace(drawn, problem=replace(problem, activation=twin[problem.activation]))
    if problem.precision == "tf32":
        found["not tf32"] = replace(drawn, problem=replace(problem, precision="ieee"))
    elif problem.dtype == "float32":
        found["tf32 unasked"] = replace(drawn, problem=replace(problem, precision="tf32"))
    return found

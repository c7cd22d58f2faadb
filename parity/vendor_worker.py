"""What is asked of ``parity vendor``'s workers: in which order a GEMM of torch's eager adds, and what runners make of
one MLP. Operands are drawn where they are used, from a hash of their index: large layers need not travel."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .contract.plan import Plan
from .contract.problem import Problem
from .contract.request import NAMES
from .contract.tiles import chain_length
from .protocol import plan_from_dict

# Of a hash of 32 bits, four bytes are added: about normal, and a whole number that every type rounds alike.
MEAN, SPREAD = 510, 7
MIXES = ((16, 0x85EBCA6B), (13, 0xC2B2AE35))
STRIDE = 0x9E3779B1


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A product ``[m, inner] @ [inner, outer]``, plus a bias, for each m of ``rows``: how does torch's eager add?"""

    dtype: str
    inner: int
    outer: int
    bias: bool
    rows: tuple[int, ...]

    def to_json(self) -> str:
        return json.dumps({"layer": asdict(self)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Mlp:
    """One MLP, by ``plan`` and by torch's eager operations."""

    problem: Problem
    plan: Plan

    def to_json(self) -> str:
        return json.dumps({"mlp": asdict(self)})

    @property
    def options(self) -> dict[str, Any]:
        """What the twins' functions are told besides arrays and plan."""
        return {"activation": self.problem.activation, "precision": self.problem.precision}

    @property
    def operands(self) -> dict[str, tuple[int, ...]]:
        """The shapes of what is given, weights as [in, out]."""
        p = self.problem
        k, h, n = p.in_features, p.hidden_features, p.out_features
        shapes = {"x": (p.m, k), "w_up": (k, h), "w_down": (h, n)}
        shapes |= {"w_gate": (k, h)} if p.gated else {}
        biases = {"b_up": (p.bias_up, h), "b_gate": (p.bias_gate, h), "b_down": (p.bias_down, n)}
        return shapes | {name: (size,) for name, (given, size) in biases.items() if given}

    def exponent(self, name: str) -> int:
        """The power of two that an operand is scaled by: a layer's results are about as large as its inputs."""
        shape = self.operands[name]
        return -SPREAD - (round(math.log2(shape[0]) / 2) if name.startswith("w_") else 0)


def digest_of(arrays: Mapping[str, bytes]) -> str:
    """One sha256 for all of them, by name."""
    whole = hashlib.sha256()
    for name in sorted(arrays):
        whole.update(arrays[name])
    return whole.hexdigest()


def seed(name: str) -> int:
    """What tells one operand's hash from another's."""
    return 0x1000193 * (1 + NAMES.index(name))


def read(line: str) -> Layer | Mlp:
    """The question that a line is."""
    fields = json.loads(line)
    if "layer" in fields:
        return Layer(**fields["layer"] | {"rows": tuple(fields["layer"]["rows"])})
    mlp = fields["mlp"]
    return Mlp(problem=Problem(**mlp["problem"]), plan=plan_from_dict(mlp["plan"]))


def answered(compute: Any, *arguments: Any) -> dict[str, Any]:
    """What ``compute`` says, or in "error" why it failed."""
    try:
        return {"spent": False, "error": ""} | compute(*arguments)
    except Exception as error:
        return {"spent": False, "error": f"{type(error).__name__}: {error}"}


def cuts(inner: int, chains: int) -> list[tuple[int, int]]:
    """Where the contract's ``chains`` begin and end."""
    length = chain_length(inner, chains)
    return [(start, min(start + length, inner)) for start in range(0, inner, length)]

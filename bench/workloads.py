"""What is measured: named MLPs with their model's true sizes, and suites of cases in order of importance."""

import json
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

from parity.contract.dtypes import DTYPES
from parity.contract.problem import Problem

FILE = Path(__file__).with_name("workloads.json")
DTYPE_NAMES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
MODES = ("forward", "forward_backward")
CACHES = ("cold", "hot")


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """One MLP. ``biases``: both layers have one. ``source``: the model the sizes come from."""

    name: str
    label: str
    in_features: int
    hidden_features: int
    out_features: int
    activation: str
    gated: bool
    biases: bool
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One row group: all contenders meet on it in one run.

    ``cache`` "cold": a chain of layers with different weights, far more than L2 holds; "hot": one layer again and
    again. ``heavy``: the contenders that take long to compile take part. ``power``: energy is measured too.
    """

    workload: str
    m: int
    dtype: str = "bfloat16"
    mode: str = "forward"
    cache: str = "cold"
    heavy: bool = False
    power: bool = False

    @property
    def key(self) -> str:
        return f"{self.workload}/{self.m}/{DTYPE_NAMES[self.dtype]}/{self.mode}/{self.cache}"

    @property
    def problem(self) -> Problem:
        w = workload(self.workload)
        return Problem(
            m=self.m,
            in_features=w.in_features,
            hidden_features=w.hidden_features,
            out_features=w.out_features,
            activation=w.activation,
            gated=w.gated,
            bias_up=w.biases,
            bias_gate=w.biases and w.gated,
            bias_down=w.biases,
            dtype=self.dtype,
        )

    @property
    def weight_bytes(self) -> int:
        return self.problem.weight_bytes

    @property
    def fresh_inputs(self) -> bool:
        """Whether each layer of the chain gets an input of its own instead of its predecessor's output: where the
        activations are the traffic (a predecessor's output would still be in L2) and where gradients are checked
        (a layer's own reference then serves)."""
        return self.mode == "forward_backward" or self.problem.io_bytes > 8 * self.weight_bytes

    @property
    def roof(self) -> str:
        """Which measured roof is the nearest: ``stream`` (weights read once), ``copy`` (x read, y written) or
        ``gemm`` (the vendor's GEMMs alone). 150 operations a byte is where a Hopper GPU stops being memory-bound."""
        p = self.problem
        if p.io_bytes > 8 * p.weight_bytes:
            return "copy"
        return "stream" if p.flops < 150 * (p.weight_bytes + p.io_bytes) else "gemm"

    def layers(self, l2_bytes: int) -> int:
        """How many different layers a chain needs so that L2 holds none of what it reads: four times L2."""
        if self.cache == "hot":
            return 1
        p = self.problem
        traffic = p.weight_bytes + p.io_bytes * (self.fresh_inputs or self.m >= 1024)
        return max(2, min(32, -(-4 * l2_bytes // traffic)))


@cache
def _file() -> dict:
    return json.loads(FILE.read_text())


@cache
def workloads() -> dict[str, Workload]:
    """Every workload by name."""
    named = {}
    for name, w in _file()["workloads"].items():
        sizes = {f"{k}_features": w[k] for k in ("in", "hidden", "out")}
        rest = {k: w[k] for k in ("label", "activation", "gated", "biases", "source")}
        named[name] = Workload(name=name, **sizes, **rest)
    return named


def workload(name: str) -> Workload:
    """Raises ValueError, listing what there is, if there is no such workload."""
    if name not in workloads():
        raise ValueError(f"workload is {name!r}, must be one of {', '.join(workloads())}")
    return workloads()[name]


def suite(name: str) -> list[Case]:
    """The cases of a suite, the most important first, each once. Raises ValueError for an unknown name."""
    suites = _file()["suites"]
    if name not in suites:
        raise ValueError(f"suite is {name!r}, must be one of {', '.join(suites)}")
    cases: dict[str, Case] = {}
    for tier in suites[name]:
        axes = product(
            tier["workloads"],
            tier["m"],
            tier.get("dtypes", ["bfloat16"]),
            tier.get("modes", ["forward"]),
            tier.get("caches", ["cold"]),
        )
        for w, m, dtype, mode, where in axes:
            assert dtype in DTYPES, dtype
            assert mode in MODES, mode
            assert where in CACHES, where
            case = Case(
                workload=w,
                m=m,
                dtype=dtype,
                mode=mode,
                cache=where,
                heavy=tier.get("heavy", False),
                power=tier.get("power", False),
            )
            cases.setdefault(case.key, case)
    return list(cases.values())

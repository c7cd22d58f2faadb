"""A worker that needs no GPU and no framework: made-up times, real protocol. For tests and for trying the command line.

A time is the larger of the weights over 4.33 TB/s and the operations over 740 TFLOP/s, plus launches, times a
contender's factor, times drift (shared by everything in a block, as a clock's is) and noise (a sample's own).
"""

import argparse
import os
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .contenders_plans import our_plans
from .protocol import serve
from .workloads import Case

STREAM, MATMUL, LAUNCH_US, HOST_US = 4.33e12, 7.4e14, 1.0, 12.0
DRIFT, NOISE, SAMPLES = 0.01, 0.01, 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Fake:
    """A made-up contender: ``factor`` on the ideal time and launches a layer."""

    name: str
    factor: float
    launches: int
    graphed: bool = True
    heavy: bool = False
    absent: str | None = None


TORCH = (
    Fake(name="torch.eager", factor=1.18, launches=3, graphed=False),
    Fake(name="torch.eager_graph", factor=1.18, launches=3),
    Fake(name="torchfused", factor=1.04, launches=1),
    Fake(name="torch.compile", factor=1.15, launches=3),
    Fake(name="torch.compile_max_autotune", factor=1.1, launches=2, heavy=True),
    Fake(name="liger", factor=1.15, launches=3, absent="cannot import liger_kernel.ops: made up"),
    Fake(name="fake.a", factor=1.3, launches=3),
    Fake(name="fake.a_again", factor=1.3, launches=3),
    Fake(name="fake.slower_3_percent", factor=1.3 * 1.03, launches=3),
)
JAX = (
    Fake(name="xla", factor=1.25, launches=4, graphed=False),
    Fake(name="jaxfused", factor=1.05, launches=1),
)


class FakeWorker:
    """protocol.Handler without a GPU."""

    def __init__(self, framework: str, variant: str) -> None:
        self._framework = framework
        suffix = f"_{variant}" if variant else ""
        listed = TORCH if framework == "torch" else JAX
        self._contenders = {c.name + suffix: c for c in listed}
        self._case: Case | None = None
        self._ready: list[tuple[str, Fake]] = []
        self._pause = float(os.environ.get("BENCH_FAKE_PAUSE", "0"))

    def hello(self) -> dict:
        listed = [{"name": n, "heavy": c.heavy, "absent": c.absent} for n, c in self._contenders.items()]
        versions = {self._framework: "0.fake"}
        return {
            "framework": self._framework,
            "versions": versions,
            "l2_bytes": 60 << 20,
            "sm_count": 132,
            "contenders": listed,
        }

    def warm(self) -> dict:
        return {"seconds": 0.0}

    def prepare(
        self,
        *,
        case: dict,
        contenders: list[str],
        skip: list[str],
        reference: str,
        emit: Callable[[str], None],
        layers: int = 2,
    ) -> dict:
        self._case, self._ready = Case(**case), []
        time.sleep(self._pause)
        ready, problems = [], []
        for name, c in self._contenders.items():
            if name not in contenders or c.absent or (c.heavy and not self._case.heavy):
                continue
            for label, _ in (
                our_plans(self._case.mode, self._case.m)
                if name.startswith(("torchfused", "jaxfused"))
                else [("", None)]
            ):
                key = f"{name}|{label}"
                if key in skip:
                    continue
                emit(key)
                if os.environ.get("BENCH_FAKE_CRASH") == key:
                    os._exit(3)
                if os.environ.get("BENCH_FAKE_WRONG") == key:
                    reason = "wrong: y is off by 1.00e+00, 2.00e-02 is allowed"
                    problem = {"contender": name, "plan": label, "reason": reason, "kind": "wrong"}
                    problems.append(problem | {"error": 1.0, "tolerance": 0.02})
                    continue
                self._ready.append((key, c))
                entry = {"key": key, "contender": name, "plan": label, "detail": label, "graphed": c.graphed}
                ready.append(entry | {"fusion": "none", "error": 1e-3, "tolerance": 2e-2})
        roofs = ["roof.stream", "roof.gemm"] if self._framework == "torch" else []
        if roofs and self._case.roof == "copy":
            roofs.append("roof.copy")
        self._ready += [(r, Fake(name=r, factor=1.0, launches=0)) for r in roofs]
        return {"ready": ready, "problems": problems, "roofs": roofs, "layers": 4}

    def block(self, *, seed: int) -> dict:
        assert self._case is not None
        samples = {}
        for key, c in self._ready:
            ideal = ideal_us(self._case, key) * c.factor + c.launches * LAUNCH_US
            kernel = noisy(ideal, f"{self._case.key}/{key}", seed)
            host = max(ideal, c.launches * HOST_US)
            wall = noisy(host, f"{self._case.key}/{key}/wall", seed)
            graphed = c.graphed and self._framework == "torch"
            samples[key] = {
                "kernel": kernel if graphed else [],
                "wall": [] if key.startswith("roof") else wall,
            }
        return {
            "samples": samples,
            "clock": {"sm_mhz": 1980.0, "sm_mhz_low": 1965.0, "power_w": 400.0, "temperature_c": 40.0},
        }

    def trace(self, *, emit: Callable[[str], None]) -> dict:
        assert self._case is not None
        found = {}
        for key, c in self._ready:
            ideal = ideal_us(self._case, key) * c.factor
            kernel = noisy(ideal, f"{self._case.key}/{key}/trace", 0)
            found[key] = {"launches": c.launches, "kernel": kernel, "kernels": {}, "method": "cupti, made up"}
        return found

    def power(self, *, seconds: float) -> dict:
        return {key: {"power_w": 400.0, "joules": 400e-6 * 20} for key, _ in self._ready if "roof" not in key}

    def release(self) -> dict:
        return {}

    def share(self) -> dict:
        made_up = {
            "model": "llama3_8b",
            "m": 1,
            "context": 2048,
            "block_us": 130.0,
            "mlp_us": 91.0,
            "share": 0.7,
        }
        return {"shares": [made_up]}


def ideal_us(case: Case, key: str = "") -> float:
    """The made-up floor in microseconds; of one roof alone, if ``key`` names one."""
    p, passes = case.problem, 1 if case.mode == "forward" else 3
    roofs = {
        "roof.stream": 1e6 * p.weight_bytes / STREAM,
        "roof.copy": 1e6 * p.io_bytes / STREAM,
        "roof.gemm": max(1e6 * passes * p.flops / MATMUL, 1e6 * p.weight_bytes / STREAM),
    }
    return roofs.get(key, max(roofs.values()))


def noisy(value: float, seed: str, block: int, factor: float = 1.0) -> list[float]:
    """One block's samples: drift by block number alone, noise by seed."""
    drift = 1 + DRIFT * np.random.default_rng(block).standard_normal()
    noise = 1 + NOISE * np.random.default_rng([zlib.crc32(seed.encode()), block]).standard_normal(SAMPLES)
    return [float(factor * value * drift * n) for n in noise]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--framework", choices=("torch", "jax"), required=True)
    parser.add_argument("--variant", default="")
    a = parser.parse_args()
    serve(lambda: FakeWorker(a.framework, a.variant))


if __name__ == "__main__":
    main()

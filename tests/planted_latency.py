"""A latency worker without a framework: planted_worker.py's results, and times made up. ``python -m planted_latency
jax|torch FAULT SLOWER SPREAD``: the jax worker's fused runner is so many times as slow; ``SPREAD``: the noise's. Faults
of its own: "dies" and "dies_timed", as a gelu_tanh is made ready or timed."""

import os
import sys
from dataclasses import dataclass

import numpy as np
from planted_worker import Planted

from parity.latency_worker import Program, serve

MICROSECONDS = 100.0
RANDOM = np.random.default_rng(7)


@dataclass(frozen=True, kw_only=True)
class Made(Program):
    base: float
    spread: float
    dies: bool = False

    def seconds(self, repeats):
        return 1e-3

    def samples(self):
        if self.dies:
            os._exit(3)
        # A block shares its clock: half of the noise is common to its samples.
        common = 1 + self.spread * RANDOM.standard_normal()
        return [self.base * common * (1 + self.spread * RANDOM.standard_normal()) for _ in range(5)]


class Timed(Planted):
    def __init__(self, framework, fault, slower, spread):
        super().__init__(framework, fault)
        self.slower, self.spread = float(slower) if framework == "jax" else 1.0, float(spread)

    def program(self, runner, request, layers):
        factor = self.slower if runner == "jaxfused" else 1.0
        deadly = request.problem.activation == "gelu_tanh"
        if self.planted == "dies" and deadly:
            os._exit(3)
        return Made(
            run=lambda: None, wait=lambda _: None, layers=layers, base=MICROSECONDS * factor, spread=self.spread,
            dies=self.planted == "dies_timed" and deadly,
        )  # fmt: skip


if __name__ == "__main__":
    serve(lambda: Timed(*sys.argv[1:]))

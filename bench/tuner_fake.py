"""A tuner's worker that needs no GPU and no framework, for the one named: made-up times, real protocol. For tests and
for trying the command line. A tiling's time is that of rounds of all processors with noise, the first one's a percent
more."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace

from parity.contract.problem import LIBRARIES, Device, smem_of

from .protocol import serve
from .tune import Trial
from .worker_fake import MATMUL, noisy

DEVICE = Device(kind="gpu", name="made-up times", sm_count=132, smem_bytes=smem_of((9, 0)), capability=(9, 0))


class FakeTuner:
    """protocol.TunerHandler without a GPU."""

    def __init__(self, framework: str) -> None:
        self._framework = framework

    def hello(self) -> dict:
        device = replace(DEVICE, library=LIBRARIES[self._framework])
        return {"device": asdict(device), "versions": {self._framework: "0.fake"}}

    def warm(self) -> dict:
        return {"seconds": 0.0}

    def compile(self, *, trials: list[dict], seconds: float) -> dict:
        return {
            "launches": len(trials),
            "compiled": 0,
            "seconds": 0.0,
            "error": os.environ.get("BENCH_FAKE_UNCOMPILED", ""),
        }

    def measure(self, *, trial: dict, emit: Callable[[str], None]) -> dict:
        wanted = Trial.from_json(trial)
        time.sleep(float(os.environ.get("BENCH_FAKE_PAUSE", "0")))
        us = {}
        for tiling in wanted.tilings:
            emit(str(tiling))
            if os.environ.get("BENCH_FAKE_CRASH") == f"{wanted.work}|{tiling}":
                os._exit(3)
            work, tiles = wanted.work, tiling.tiles
            count = -(work.rows // -tiles.m) * -(work.outer // -tiles.n)
            rounds = -(count // -DEVICE.sm_count)
            flops = 2 * DEVICE.sm_count * tiles.m * tiles.n * work.weights * work.inner
            factor = 1.0 if tiling == wanted.tilings[0] else 0.99
            us[str(tiling)] = round(noisy(1e6 * rounds * flops / MATMUL, f"{work}/{tiling}", 0, factor)[0], 2)
        return {"us": us}


if __name__ == "__main__":
    serve(lambda: FakeTuner(sys.argv[1]))

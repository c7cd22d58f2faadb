"""A parity worker without a framework, whose fused runner has one fault in one place. ``python -m planted_worker
jax|torch FAULT``; FAULT is of the torch worker's runner alone."""

import sys

import numpy as np
from emulated_worker import Emulated
from emulation import MUTANTS, emulate, gemm
from emulation_backward import MUTANTS as BACKWARD
from emulation_backward import emulate_backward

from parity import protocol
from parity.rounding import round_to

F = np.float32
# Beside emulation.py's: what leaves every result within its bounds, and what hangs on the batch.
PLACES = ("split_up", "split_down", "atomics", "split_by_rows", "first_row")


class Planted(Emulated):
    def __init__(self, framework, fault):
        super().__init__(framework, "", "")
        self.planted = fault if framework == "torch" else ""

    def _fused(self, request, arrays):
        forward = {name: array for name, array in arrays.items() if name != "dy"}
        found = self._forward(request, forward)
        if "dy" not in arrays:
            return found
        mutant = self.planted if self.planted in BACKWARD else ""
        return found | emulate_backward(request.problem, arrays, found, request.save, mutant)

    def _forward(self, request, arrays):
        problem, fault = request.problem, self.planted
        if fault == "refuses":
            raise ValueError("this runner cannot")
        if fault in MUTANTS:
            return emulate(problem, arrays, fault)
        few = fault == "split_by_rows" and problem.m < 16
        found = emulate(problem, arrays, splits=2 if few or fault == "split_up" else 1)
        if fault == "first_row" and problem.m:
            other = emulate(problem, arrays, splits=2)
            return {stage: np.concatenate([other[stage][:1], found[stage][1:]]) for stage in found}
        if fault == "atomics":
            order = np.random.default_rng().permutation(problem.in_features)
            return emulate(problem, arrays | {"x": arrays["x"][:, order], "w_up": arrays["w_up"][order]})
        if fault in ("split_up", "split_down"):
            found["y"] = self._second(request, arrays, found["h"], 2 if fault == "split_down" else 1)
        return found

    def _second(self, request, arrays, h, splits):
        y = gemm(h.astype(F), arrays["w_down"].astype(F), tensor=False, terms=16, splits=splits)
        bias = arrays.get("b_down")
        return round_to(y if bias is None else y + bias.astype(F), request.problem.dtype)


if __name__ == "__main__":
    protocol.serve(lambda: Planted(*sys.argv[1:]))

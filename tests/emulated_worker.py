"""A parity worker without a framework: both its runners are the numpy emulation. ``PARITY_FAULT`` makes it go wrong.

Started by the tests as ``python -m emulated_worker jax|torch``, through the same protocol as the real ones.
"""

import os
import sys
import time
from dataclasses import replace

import numpy as np
from emulation import MUTANTS, emulate
from emulation_backward import MUTANTS as BACKWARD
from emulation_backward import emulate_backward

from parity import emulator, epilogue, protocol
from parity.contract.plan import LIBRARY, Plan
from parity.contract.tiles import Tiles
from parity.rounding import NUMPY_DTYPES

NAMES = {"jax": ("jaxfused", "xla"), "torch": ("torchfused", "eager")}


class Emulated:
    """``fault``: a mutant of emulation.py or emulation_backward.py (of the fused runner), or one of the accidents
    below, in a case named so."""

    def __init__(self, framework: str, fault: str, at: str) -> None:
        self.names, self.fault, self.at = NAMES[framework], fault, at
        self.layers = 0  # of a stack
        if fault == "will_not_start":
            raise RuntimeError("no such device")

    def hello(self):
        print("a library that prints to stdout")
        os.system("echo and a child process that does")
        return {"device": "numpy", "versions": {"numpy": np.__version__}}

    def put(self, name, blob):
        array = np.frombuffer(blob.read(), NUMPY_DTYPES[blob.dtype]).reshape(blob.shape).copy()
        if self.fault == "lost_bit" and name == "w_down":
            array.view(f"u{array.itemsize}")[0, 0] ^= 1
        return array

    def fetch(self, name, array):
        return array.tobytes(), array.dtype.name, array.shape

    def plan(self, arrays, problem, plan):
        taken = plan or Plan()
        other_tiles = replace(taken, up=Tiles(m=16, n=16, k=64))
        return {"other_plan": Plan(split_k=2), "other_tiles": other_tiles, "library": LIBRARY}.get(self.fault, taken)

    @property
    def runners(self):
        return {
            self.names[0]: self._fused,
            self.names[1]: lambda request, arrays: _stages(request, arrays, "", "preact"),
        }

    def _fused(self, request, arrays):
        fault = self.fault if self.at in ("", request.problem.activation) else ""
        if fault == "crash":
            print("about to crash", file=sys.stderr, flush=True)
            os.abort()
        if fault == "hang":
            time.sleep(600)
        if fault == "memory":
            raise MemoryError("out of memory: 1 EiB")
        if fault == "raise":
            raise ValueError("this runner cannot")
        if fault == "fails_later":
            p = request.problem
            self.layers += p.bias_up and p.in_features == p.out_features
            if self.layers > 1 or p.in_features == 64 or request.plan.splits != (1, 1):
                raise ValueError("too much")
            fault = "hopper"
        return _stages(request, arrays, fault, request.save)


def _tensor_core(request, arrays, fault):
    """As the contract says a GPU computes, but for what follows the fault's first word."""
    plan = Plan() if fault == "hopper-unsplit" else request.plan
    recipe = epilogue.contract(request.problem, plan)
    adder = recipe.up.adder
    three = emulator.ascending(recipe.up.order.leaves, chains=3, terms=adder.terms)
    products = {
        "fraction": {"adder": replace(adder, fraction=24)},
        "nearest": {"adder": replace(adder, rounding="nearest")},
        "truncated": {"adder": replace(adder, tf32="zero")},
        "flushed": {"adder": replace(adder, flush=True)},
        "apart": {"adder": replace(adder, contracted=False)},
        "bias": {"bias": "first"},
    }
    whole = {"rounded": {"round_s": True}, "order": {"up": replace(recipe.up, order=three)}}
    changes = products.get(fault.partition("-")[2], {})
    recipe = replace(recipe, up=replace(recipe.up, **changes), down=replace(recipe.down, **changes))
    return epilogue.stages(request.problem, arrays, replace(recipe, **whole.get(fault.partition("-")[2], {})))


def _stages(request, arrays, fault, save):
    if fault.startswith("hopper"):
        return _tensor_core(request, arrays, fault)
    dy = arrays.pop("dy", None)
    found = emulate(
        request.problem, arrays, fault if fault in MUTANTS else "",
        tensor=fault in ("tensor", "tensor_split"), splits=2 if fault == "tensor_split" else 1,
    )  # fmt: skip
    if fault == "atomics":
        generator = np.random.default_rng()
        order = generator.permutation(request.problem.in_features)
        shuffled = arrays | {"x": arrays["x"][:, order], "w_up": arrays["w_up"][order]}
        found["s"] = emulate(request.problem, shuffled)["s"]
    if dy is not None:
        mutant = fault if fault in BACKWARD else ""
        found |= emulate_backward(request.problem, arrays | {"dy": dy}, found, save, mutant)
    return found


if __name__ == "__main__":
    fault, _, at = os.environ.get("PARITY_FAULT", "").partition("@")
    protocol.serve(lambda: Emulated(sys.argv[1], fault, at))

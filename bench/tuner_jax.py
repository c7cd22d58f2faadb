"""The tuner's worker: one launch of jaxfused's at a time, on a Hopper GPU. Started by tune.py.

A time is the host's, of a jitted chain of launches on operands of their own, several under way; tilings are measured in
turns, and the median is taken. Tiles and their order change no bit of a result: tilings that differ in one are not
timed.
"""

import gc
import importlib.metadata
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp

from jaxfused.device import device_of
from jaxfused.launch_tiled_hopper import hidden_bwd, linear, product
from parity.contract.hopper_tiles import Tiling, Work
from parity.contract.plan import Gemm

from . import timer_jax
from .compiling import compiled
from .protocol import serve
from .tune import Trial

# The fewest and the most launches of a chain, which takes about so long at so many operations a second: so the host's
# share of a call is small, and operands are beyond L2, but for the smallest.
FEWEST, MOST = 3, 16
CHAIN_S, RATE = 2e-3, 700e12
# The most that compiling may take of a launch that was not compiled before.
COMPILE_S = 40.0
# How long GEMMs warm the card.
WARM_S = 3.0


class JaxTuner:
    """protocol.TunerHandler over jax."""

    def __init__(self) -> None:
        if jax.default_backend() != "gpu":
            raise RuntimeError(f"JAX sees no GPU: its backend is {jax.default_backend()}")
        self._device = device_of(jnp.zeros(1))
        self._compiled: dict[tuple[Trial, Tiling], Any] = {}

    def hello(self) -> dict:
        versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
        return {"device": asdict(self._device), "versions": {"python": platform.python_version(), **versions}}

    def warm(self) -> dict:
        gc.freeze()
        a, square = jnp.ones((8192, 8192), jnp.bfloat16), jax.jit(lambda a: a @ a)
        start = time.monotonic()
        while time.monotonic() - start < WARM_S:
            square(a).block_until_ready()
        return {"seconds": round(time.monotonic() - start, 1)}

    def compile(self, *, trials: list[dict], seconds: float) -> dict:
        """Every launch in every tiling; what is left is compiled when it is measured."""
        todo = [(trial, tiling) for trial in map(Trial.from_json, trials) for tiling in trial.tilings]
        return compiled([partial(self._program, *each) for each in todo], seconds)

    def measure(self, *, trial: dict, emit: Callable[[str], None]) -> dict:
        """``us``: tiling -> median microseconds. Raises RuntimeError where two tilings' results differ."""
        wanted = Trial.from_json(trial)
        emit("compiling")
        compiled([partial(self._program, wanted, tiling) for tiling in wanted.tilings], COMPILE_S)
        draw = jax.jit(partial(operands, wanted))
        chain = [draw(key) for key in jax.random.split(jax.random.key(0), length(wanted.work))]
        programs: list[timer_jax.Program] = []
        first: list[Array] = []
        for tiling in wanted.tilings:
            emit(str(tiling))
            function = self._program(wanted, tiling)
            program = timer_jax.Program(key=str(tiling), function=function, arguments=(chain,), layers=len(chain))
            found = jax.tree.leaves(program.run())
            first = first or found
            if not all(map(jnp.array_equal, found, first)):
                raise RuntimeError(f"{wanted.work}: {tiling} gives other bits than {wanted.tilings[0]}")
            program.calibrate()
            programs.append(program)
        emit("timing")
        blocks = [timer_jax.block(programs, seed) for seed in range(2)]
        # What is not measured again is not held.
        self._compiled = {key: value for key, value in self._compiled.items() if key[0] != wanted}
        return {"us": {p.key: round(median(s for b in blocks for s in b[p.key]["wall"]), 2) for p in programs}}

    def _program(self, trial: Trial, tiling: Tiling) -> Any:
        """The chain of such launches, compiled."""
        if (trial, tiling) not in self._compiled:
            one = jax.eval_shape(partial(operands, trial), jax.random.key(0))
            run = jax.jit(lambda chain: [launch(trial, tiling, self._device, given) for given in chain])
            self._compiled[trial, tiling] = run.lower([one] * length(trial.work)).compile()
        return self._compiled[trial, tiling]


def length(work: Work) -> int:
    """Launches of a chain."""
    operations = 2 * work.rows * work.outer * work.terms * work.weights
    return max(FEWEST, min(MOST, round(CHAIN_S * RATE / operations)))


def operands(trial: Trial, key: Array) -> dict[str, Any]:
    """Those of one launch, by its room's names, drawn from a normal distribution; sums are of its size too."""
    work: Work = trial.work
    m, n, k, gated = work.rows, work.outer, work.inner, work.gated
    keys = iter(jax.random.split(key, 5))

    def of(*shape: int, scale: float = 1.0) -> Array:
        return (scale * jax.random.normal(next(keys), shape)).astype(jnp.bfloat16)

    weight = partial(of, scale=k**-0.5)
    if work.kind == "hidden_bwd":
        return {"dy": of(m, k), "w": weight(n, k), "saved": {name: of(m, n) for name in ("s", *("u",) * gated)}}
    if work.kind in ("linear", "activated"):
        weights = {"x": of(m, k), "w": weight(k, n)} | ({"gate": weight(k, n)} if gated else {})
        return weights | ({"b": of(n)} | ({"b_gate": of(n)} if gated else {}) if trial.biases else {})
    turned = work.kind == "weight_bwd"
    pairs = [(of(k, m), weight(k, n)) if turned else (of(m, k), weight(n, k)) for _ in range(1 + gated)]
    return dict(zip(("a", "b", "a2", "b2"), (operand for pair in pairs for operand in pair), strict=False))


def launch(trial: Trial, tiling: Tiling, device: Any, given: dict[str, Any]) -> dict[str, Array]:
    """One launch on such operands."""
    options: dict[str, Any] = {"activation": trial.activation, "precision": "ieee", "tiling": tiling}
    if trial.work.kind == "hidden_bwd":
        return hidden_bwd(device, **given, **options)
    if trial.work.kind in ("linear", "activated"):
        return linear(Gemm(tiles=tiling.tiles, split_k=1), device, **{"b": None, **given}, **options)
    turned = trial.work.kind == "weight_bwd"
    return {"y": product(device, "ieee", **given, transposed=(turned, not turned), tiling=tiling)}


if __name__ == "__main__":
    serve(JaxTuner)

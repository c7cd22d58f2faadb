"""The tuner's worker: one launch of torchfused's at a time, in every tiling, on a Hopper GPU. Started by tune.py.

A time is that of a chain of launches on operands of their own, four times L2 in all, as one CUDA graph; tilings are
measured in turns, and the median is taken. Tiles and their order change no bit of a result: tilings that differ in one
are not timed.
"""

import gc
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import partial
from statistics import median
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime import driver

from parity.contract.hopper_tiles import Tiling, Work
from parity.contract.plan import Gemm
from torchfused.device import device_of
from torchfused.launch_tiled_hopper import hidden_bwd, linear, product

from . import timer_torch
from .compiling import compiled
from .gpu import find
from .protocol import serve
from .tune import Trial

# The most launches of a chain.
LAYERS = 32
# A launch of this size needs the binary that one of any size does.
SMALL = {"rows": 128, "outer": 256, "inner": 64}


class TorchTuner:
    """protocol.TunerHandler over torch."""

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise RuntimeError("torch sees no GPU")
        self._device = torch.device("cuda", 0)
        torch.cuda.set_device(self._device)
        # Triton finds its driver at the first launch: not in several threads at once.
        driver.active.get_current_target()  # pyright: ignore[reportAttributeAccessIssue]

    def hello(self) -> dict:
        versions = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
        versions["triton"] = triton.__version__
        return {"device": asdict(device_of(self._device)), "versions": versions}

    def warm(self) -> dict:
        # Each block of samples collects garbage first: what is here by now stays, and need not be looked through.
        gc.freeze()
        return {"seconds": round(timer_torch.settle(self._device, find()), 1)}

    def compile(self, *, trials: list[dict], seconds: float) -> dict:
        """Every binary that the trials need, by launching each once on few operands; what is left is compiled when it
        is measured."""
        found = compiled([partial(self._launched, trial) for trial in variants(map(Trial.from_json, trials))], seconds)
        torch.cuda.synchronize()
        return found

    def measure(self, *, trial: dict, emit: Callable[[str], None]) -> dict:
        """``us``: tiling -> median microseconds. Raises RuntimeError where two tilings' results differ."""
        # What the launch before this one held.
        torch.cuda.empty_cache()
        wanted = Trial.from_json(trial)
        l2 = torch.cuda.get_device_properties(self._device).L2_cache_size
        first = operands(wanted, self._device)
        count = max(1, min(LAYERS, -(-4 * l2 // size_of(first))))
        chain = [first, *(operands(wanted, self._device) for _ in range(count - 1))]
        programs: list[timer_torch.Program] = []
        for tiling in wanted.tilings:
            emit(str(tiling))
            step = partial(launch, wanted, tiling, chain)
            program = timer_torch.Program(key=str(tiling), step=step, layers=count, device=self._device, wanted=False)
            program.capture()
            program.calibrate()
            programs.append(program)
            if not all(map(torch.equal, program.output, programs[0].output)):
                raise RuntimeError(f"{wanted.work}: {tiling} gives other bits than {wanted.tilings[0]}")
        emit("timing")
        blocks = [timer_torch.block(programs, seed) for seed in range(2)]
        return {"us": {p.key: round(median(s for b in blocks for s in b[p.key]["kernel"]), 2) for p in programs}}

    def _launched(self, trial: Trial) -> None:
        launch(trial, trial.tilings[0], [operands(trial, self._device)])


def variants(trials: Iterable[Trial]) -> list[Trial]:
    """A small launch for each binary that the trials need: sizes and the order of tiles are no part of one."""
    found: dict[tuple, Trial] = {}
    for trial in trials:
        for tiling in trial.tilings:
            small = replace(trial, work=replace(trial.work, **SMALL), tilings=(tiling,))
            found.setdefault((small.work, small.activation, small.biases, tiling.tiles), small)
    return list(found.values())


def operands(trial: Trial, device: torch.device) -> dict[str, Any]:
    """Those of one launch, by its room's names, drawn from a normal distribution; sums are of its size too."""
    work: Work = trial.work
    m, n, k, gated = work.rows, work.outer, work.inner, work.gated

    def of(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.empty(shape, device=device, dtype=torch.bfloat16).normal_(0, scale)

    weight = partial(of, scale=k**-0.5)
    if work.kind == "hidden_bwd":
        return {"dy": of(m, k), "w": weight(k, n), "saved": {name: of(m, n) for name in ("s", *("u",) * gated)}}
    if work.kind in ("linear", "activated"):
        biases = [of(n) if trial.biases and there else None for there in (True, gated)]
        return {
            "x": of(m, k), "w": weight(n, k), "b": biases[0], "gate": weight(n, k) if gated else None,
            "b_gate": biases[1],
        }  # fmt: skip
    turned = work.kind == "weight_bwd"
    left = [of(k, m).t() if turned else of(m, k) for _ in range(1 + gated)]
    right = [weight(k, n) for _ in left]
    return {"a": left[0], "b": right[0]} | ({"a2": left[1], "b2": right[1]} if gated else {})


def launch(trial: Trial, tiling: Tiling, chain: list[dict[str, Any]]) -> list[Tensor]:
    """One launch for each operands of the chain; the results of the last."""
    found: list[Tensor] = []
    options: dict[str, Any] = {"activation": trial.activation, "precision": "ieee"}
    for given in chain:
        device = device_of(next(iter(given.values())))
        if trial.work.kind == "hidden_bwd":
            out = hidden_bwd(device, **given, **options, tiling=tiling)
        elif trial.work.kind in ("linear", "activated"):
            gemm = Gemm(tiles=tiling.tiles, split_k=1)
            out = linear(gemm, device, **given, **options, tiling=tiling)
        else:
            out = {"y": product(device, "ieee", **given, tiling=tiling)}
        found = list(out.values())
    return found


def size_of(given: dict[str, Any]) -> int:
    """Bytes of a launch's operands."""
    return sum(size_of(t) if isinstance(t, dict) else t.nbytes for t in given.values() if t is not None)


if __name__ == "__main__":
    serve(TorchTuner)

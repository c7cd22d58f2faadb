"""What is timed in torch: a chain of layers, forward or with its backward; and the memory of one training step."""

from collections.abc import Callable
from typing import Any

import torch

from . import timer_torch
from .contenders_torch import Layer
from .workloads import Case

# A hot chain is one layer this many times.
HOT_REPEATS = 8


def forward(f: Any, layers: list[Layer], case: Case) -> Callable[[], Any]:
    chain = layers if case.cache == "cold" else layers * HOT_REPEATS

    @torch.no_grad()
    def step() -> Any:
        y = layers[0]["x"]
        for w in chain:
            y = f(w["x"] if case.fresh_inputs else y, w)
        return y

    return step


def both(f: Any, layers: list[Layer]) -> Callable[[], Any]:
    leaves = [[v for n, v in w.items() if n.startswith(("x", "w_", "b_"))] for w in layers]

    def step() -> Any:
        gradients: Any = None
        for w, wanted in zip(layers, leaves, strict=True):
            gradients = torch.autograd.grad(f(w["x"], w), wanted, w["g"])
        return gradients[0]

    return step


def peak(f: Any, w: Layer) -> int:
    """Bytes that one layer's forward and backward hold at most, beside its operands: what is saved, the gradients."""
    leaves = [v for n, v in w.items() if n.startswith(("x", "w_", "b_"))]
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(f(w["x"], w), leaves, w["g"])
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def repeat(step: Callable[[], Any], times: int) -> Callable[[], Any]:
    def run() -> None:
        for _ in range(times):
            step()

    return run


def same_as_step(program: timer_torch.Program, tolerance: float) -> None:
    """Raises RuntimeError if the graph computes something else than the calls it was captured from."""
    expected = program.step().double()
    program.output.fill_(float("nan"))
    program.graph.replay()
    torch.cuda.synchronize()
    error = float((program.output.double() - expected).norm() / expected.norm())
    if not error <= tolerance * program.layers:
        raise RuntimeError(f"the captured graph's result is off by {error:.2e} from the same calls uncaptured")

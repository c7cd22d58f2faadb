"""What bounds an MLP, measured beside it: its weights streamed once, its activations copied, its GEMMs alone."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .workloads import Case

# (BLOCK, STEPS, warps): the fastest on this card and size is the roof.
STREAM_CONFIGS = ((4096, 4, 4), (4096, 8, 4), (8192, 4, 8), (8192, 2, 8), (2048, 8, 4), (4096, 4, 8))


def weight_sized(case: Case, layers: int, device: torch.device) -> list[Tensor]:
    """A buffer of random words a layer, each exactly as large as the layer's weights and biases."""
    words = -(-case.weight_bytes // 4)
    return [torch.randint(-(2**31), 2**31 - 1, (words,), dtype=torch.int32, device=device) for _ in range(layers)]


def stream(source: list[Tensor], config: tuple[int, int, int]) -> Callable[[], Any]:
    """One launch a layer that reads its buffer once."""
    if source[0].device.type != "cuda":
        return lambda: [s.sum() for s in source]
    from .kernels.stream import stream_read_kernel

    block, steps, warps = config
    words = source[0].numel()
    launch: Any = stream_read_kernel
    grid = (-(-words // (block * steps)),)
    partials = torch.empty(grid[0], dtype=torch.int32, device=source[0].device)

    def run() -> None:
        for s in source:
            launch[grid](s, partials, words, BLOCK=block, STEPS=steps, num_warps=warps)

    return run


def copy(case: Case, layers: list[dict[str, Any]]) -> Callable[[], Any]:
    """x read, y written, a layer."""
    pairs = [(w["x"].detach(), torch.empty_like(w["x"])) for w in layers if "x" in w]
    return lambda: [target.copy_(source) for source, target in pairs]


def gemm(case: Case, layers: list[dict[str, Any]], h: Tensor) -> Callable[[], Any]:
    """The vendor's GEMMs of one pass and nothing else; ``h`` ``[m, hidden]`` stands for the hidden layer."""
    x, g = layers[0]["x"].detach(), layers[0]["g"].detach()
    ups = ("w_gate", "w_up") if case.problem.gated else ("w_up",)

    def forward(w: dict[str, Any]) -> None:
        for name in ups:
            F.linear(x, w[name])
        F.linear(h, w["w_down"])

    def backward(w: dict[str, Any]) -> None:
        torch.mm(g, w["w_down"])
        torch.mm(g.t(), h)
        for name in ups:
            torch.mm(h, w[name])
            torch.mm(h.t(), x)

    @torch.no_grad()
    def run() -> None:
        for w in layers:
            forward(w)
            if case.mode != "forward":
                backward(w)

    return run

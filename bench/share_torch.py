"""What part of a transformer block's time its MLP is: Amdahl's share, measured on graphed eager torch.

A gain on the MLP is not a gain on the model. The block is Llama-3 8B's: RMSNorm, QKV, attention over a cache of
``context`` tokens, output projection, RMSNorm, SwiGLU MLP, in bf16; decoding, so one new token a sequence.
"""

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .rounds import in_rounds
from .timer_torch import Program

HIDDEN, HEADS, KV_HEADS, HEAD, WIDE = 4096, 32, 8, 128, 14336
# Two sets of weights: 872 MB, far beyond L2.
LAYERS = 2
POINTS = ((1, 2048), (1, 16384), (16, 2048), (64, 2048))


def measure(device: torch.device, points: tuple[tuple[int, int], ...] = POINTS, shrink: int = 1) -> list[dict]:
    """One entry a (sequences, context). ``shrink`` divides every width: for a dry run."""
    return [_point(device, m, context, shrink) for m, context in points]


def _point(device: torch.device, m: int, context: int, shrink: int) -> dict:
    dtype = torch.bfloat16
    heads, kv, hidden, wide = HEADS // shrink, KV_HEADS // shrink, HIDDEN // shrink, WIDE // shrink

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype) / shape[-1] ** 0.5

    x = torch.randn(m, hidden, device=device, dtype=dtype)
    layers = [
        {
            "norm": torch.ones(hidden, device=device, dtype=dtype),
            "qkv": draw((heads + 2 * kv) * HEAD, hidden),
            "out": draw(hidden, heads * HEAD),
            "gate": draw(wide, hidden),
            "up": draw(wide, hidden),
            "down": draw(hidden, wide),
            "keys": draw(m, kv, context, HEAD),
            "values": draw(m, kv, context, HEAD),
        }
        for _ in range(LAYERS)
    ]

    def mlp(x: Tensor, w: dict[str, Tensor]) -> Tensor:
        return F.linear(F.silu(F.linear(x, w["gate"])) * F.linear(x, w["up"]), w["down"])

    def block(x: Tensor, w: dict[str, Tensor]) -> Tensor:
        q = F.linear(F.rms_norm(x, (hidden,), w["norm"]), w["qkv"])[:, : heads * HEAD].view(m, heads, 1, HEAD)
        seen = F.scaled_dot_product_attention(q, w["keys"], w["values"], enable_gqa=True)
        x = x + F.linear(seen.reshape(m, heads * HEAD), w["out"])
        return x + mlp(F.rms_norm(x, (hidden,), w["norm"]), w)

    programs = [_program(name, f, x, layers, device) for name, f in (("mlp", mlp), ("block", block))]
    times = {p.key: median(samples) for p, samples in in_rounds(programs, Program.kernel_sample, seed=0)}
    share = round(times["mlp"] / times["block"], 4)
    point = {"model": "llama3_8b", "m": m, "context": context}
    return point | {"block_us": round(times["block"], 2), "mlp_us": round(times["mlp"], 2), "share": share}


def _program(name: str, f: Callable[..., Tensor], x: Tensor, layers: list[dict], device: torch.device) -> Program:
    @torch.no_grad()
    def step() -> Any:
        y = x
        for w in layers:
            y = f(y, w)
        return y

    program = Program(key=name, step=step, layers=len(layers), device=device)
    if device.type == "cuda":
        program.capture()
    program.calibrate()
    return program

"""The language model of `parity tokens`, as numpy makes it: characters, random weights, the same bytes everywhere.

A decoder of pre-norm blocks, ``x + attention(x / rms(x))`` and ``x + MLP(x / rms(x))``, the MLP gated by SiLU; learned
positions, keys and values kept from step to step. Everything but the MLPs is float32 and spelled alike in both
frameworks; a fused and an unfused runner differ in the MLP alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .rounding import round_to
from .train_model import RMS_EPSILON, text, vocabulary

__all__ = ["ATTENTION", "MLP", "RMS_EPSILON", "Config", "config", "parameters", "prompts"]

ATTENTION = ("w_q", "w_k", "w_v", "w_o")
MLP = ("w_up", "w_gate", "w_down")
# Logits of this spread: some tokens are sure, some are close calls.
SHARPNESS = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """``batch`` prompts of ``prompt`` characters, ``steps`` that follow; ``dtype`` is that of the MLPs."""

    depth: int
    dtype: str
    width: int
    hidden: int
    heads: int
    batch: int
    prompt: int
    steps: int
    seed: int

    @property
    def length(self) -> int:
        return self.prompt + self.steps


def config(device: str, depth: int, steps: int | None, seed: int) -> Config:
    """On a GPU in bfloat16; in the interpreters, which refuse it, tiny and in float16."""
    sizes: dict[str, Any] = {"dtype": "float16", "width": 32, "hidden": 64, "heads": 2, "batch": 4, "prompt": 8}
    if device == "gpu":
        sizes = {"dtype": "bfloat16", "width": 1024, "hidden": 4096, "heads": 8, "batch": 16, "prompt": 32}
    return Config(depth=depth, steps=steps or (256 if device == "gpu" else 16), seed=seed, **sizes)


@lru_cache(maxsize=1)
def parameters(c: Config) -> Mapping[str, np.ndarray]:
    """By name; weights ``[in, out]``, the MLPs' in their dtype, all else float32. Both runners of a process take the
    same: they are kept, and not to be changed."""
    generator = np.random.default_rng([c.seed, 3, c.depth])
    size = len(vocabulary())

    def normal(*shape: int, scale: float) -> np.ndarray:
        return (generator.standard_normal(shape, dtype=np.float32) * np.float32(scale)).astype(np.float32)

    found = {"embedding": normal(size, c.width, scale=1.0), "position": normal(c.length, c.width, scale=0.5)}
    for layer in range(c.depth):
        for name in ATTENTION:
            found[f"{layer}.{name}"] = normal(c.width, c.width, scale=c.width**-0.5)
        for name in MLP:
            inner, outer = (c.hidden, c.width) if name == "w_down" else (c.width, c.hidden)
            found[f"{layer}.{name}"] = round_to(normal(inner, outer, scale=inner**-0.5), c.dtype)
    return found | {"head": normal(c.width, size, scale=SHARPNESS * c.width**-0.5)}


def prompts(c: Config) -> np.ndarray:
    """``[batch, prompt + steps]`` characters of the corpus: each prompt and what really follows it."""
    characters = text()
    starts = np.random.default_rng([c.seed, 4]).integers(0, len(characters) - c.length, c.batch)
    return np.stack([characters[start : start + c.length] for start in starts])

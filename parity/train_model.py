"""The model that `parity train` trains in both frameworks: text, batches and initial parameters, as numpy makes them.

A character is predicted from the ``context`` characters before it: their embeddings side by side, two residual blocks
``x + MLP(x / rms(x))``, one gated (SiLU) and one plain (tanh-GELU, biases), a linear layer, cross entropy. Everything
but the MLPs is float32 and spelled alike in both frameworks; the optimizer is SGD with momentum, elementwise:

    v = MOMENTUM * v + gradient;  p = p - rate * v
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

CORPUS = Path(__file__).with_name("corpus.txt")
MOMENTUM = 0.9
RMS_EPSILON = 1e-6
# Which operands each block's MLP has.
BLOCKS = {
    "gated": ("w_up", "w_gate", "w_down"),
    "plain": ("w_up", "w_down", "b_up", "b_down"),
}
ACTIVATIONS = {"gated": "silu", "plain": "gelu_tanh"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Sizes, the number of steps and what is computed in: ``dtype`` that of the MLPs, all else is float32."""

    steps: int
    seed: int
    dtype: str
    context: int
    embedding: int
    hidden: int
    batch: int
    rate: float

    @property
    def width(self) -> int:
        return self.context * self.embedding


def config(device: str, steps: int, seed: int) -> Config:
    """On a GPU in bfloat16, with float32 parameters; in the interpreters, which refuse it, tiny and in float32."""
    if device == "gpu":
        sizes: dict[str, Any] = {"dtype": "bfloat16", "context": 16, "embedding": 32, "hidden": 2048, "batch": 512}
    else:
        sizes = {"dtype": "float32", "context": 4, "embedding": 8, "hidden": 64, "batch": 32}
    return Config(steps=steps, seed=seed, rate=0.05, **sizes)


@cache
def text() -> np.ndarray:
    """The corpus as indices into ``vocabulary()``."""
    index = {character: i for i, character in enumerate(vocabulary())}
    return np.array([index[character] for character in CORPUS.read_text(encoding="utf-8")], np.int32)


@cache
def vocabulary() -> str:
    """Its characters, in order."""
    return "".join(sorted(set(CORPUS.read_text(encoding="utf-8"))))


def batches(c: Config) -> tuple[np.ndarray, np.ndarray]:
    """``[steps, batch, context]`` characters and ``[steps, batch]`` that follow them."""
    characters = text()
    starts = np.random.default_rng([c.seed, 1]).integers(0, len(characters) - c.context, (c.steps, c.batch))
    windows = np.lib.stride_tricks.sliding_window_view(characters, c.context + 1)[starts]
    return np.ascontiguousarray(windows[..., :-1]), np.ascontiguousarray(windows[..., -1])


def parameters(c: Config) -> dict[str, np.ndarray]:
    """Initial float32 parameters by name; weights ``[in, out]``."""
    generator = np.random.default_rng([c.seed, 2])
    size = len(vocabulary())

    def normal(*shape: int, scale: float) -> np.ndarray:
        return (generator.standard_normal(shape) * scale).astype(np.float32)

    found = {"embedding": normal(size, c.embedding, scale=1.0)}
    for block, names in BLOCKS.items():
        for name in names:
            inner, outer = (c.hidden, c.width) if name.endswith("down") else (c.width, c.hidden)
            found[f"{block}.{name}"] = (
                np.zeros(outer, np.float32) if name.startswith("b_") else normal(inner, outer, scale=inner**-0.5)
            )
    return found | {"head": normal(c.width, size, scale=c.width**-0.5)}

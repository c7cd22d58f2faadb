"""The same random numbers in every framework, without shipping a byte: integer arithmetic only.

Each element is a hash of its index: the sum of 8 random bytes, which is normal but for tails cut at 4.9 sigma, times a
scale. Integers wrap alike and a float32 product is rounded alike in numpy, torch and JAX, so both twins get equal
bits. Normal and never zeros: a tensor core draws less power on zeros, and so runs faster.

Weights are scaled so that every layer's output has variance 1: a chain neither explodes nor fades.
"""

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from .workloads import Workload

_SPREAD = math.sqrt(8 * (256**2 - 1) / 12)
_MEAN = 8 * 255 // 2
BIAS_SCALE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """One tensor: its shape in torch's layout ([out, in] for a weight), its seed and its scale."""

    shape: tuple[int, ...]
    seed: int
    scale: float


def salts(draw: Draw) -> tuple[int, int]:
    """Two int32 numbers that make the draw's two hash streams its own."""
    return _int32(draw.seed * 0x9E3779B1), _int32(draw.seed * 0x9E3779B1 + 0x7F4A7C15)


def byte_sum(index: Any, salt: tuple[Any, Any]) -> Any:
    """The centred sum of 8 hashed bytes per int32 ``index``; a numpy, torch or JAX array in, the same out."""
    total = -_MEAN
    for s in salt:
        h = _mix(index + s)
        total = total + (h & 255) + ((h >> 8) & 255) + ((h >> 16) & 255) + ((h >> 24) & 255)
    return total


def scale_of(draw: Draw) -> float:
    """The float32 factor that turns a byte sum into a number of the wanted spread."""
    return float(np.float32(draw.scale / _SPREAD))


def draws(work: Workload, m: int, layer: int) -> dict[str, Draw]:
    """The input, upstream gradient, weights and biases of one layer, by name; x and g are [m, features]."""
    k, h, n = work.in_features, work.hidden_features, work.out_features
    shapes: dict[str, tuple[int, ...]] = {"x": (m, k), "g": (m, n), "w_up": (h, k), "w_down": (n, h)}
    scales = {"x": 1.0, "g": 1.0, "w_up": k**-0.5, "w_down": (h * second_moment(work)) ** -0.5}
    if work.gated:
        shapes["w_gate"], scales["w_gate"] = (h, k), k**-0.5
    if work.biases:
        for name, width in (("b_up", h), ("b_down", n)) + ((("b_gate", h),) if work.gated else ()):
            shapes[name], scales[name] = (width,), BIAS_SCALE
    return {n: Draw(shape=shapes[n], seed=_seed(n, layer), scale=scales[n]) for n in shapes}


def numpy_draw(draw: Draw) -> np.ndarray:
    """The float32 values of one tensor."""
    index = np.arange(math.prod(draw.shape), dtype=np.int32).reshape(draw.shape)
    return byte_sum(index, salts(draw)).astype(np.float32) * np.float32(scale_of(draw))


def second_moment(work: Workload) -> float:
    """E[h^2] of a hidden unit whose pre-activations are standard normal (and a bias added, where there is one)."""
    sigma = math.sqrt(1 + (BIAS_SCALE**2 if work.biases else 0))
    z = np.linspace(-8, 8, 4001)
    density = np.exp(-0.5 * z * z)
    f = activation(work.activation, z * sigma)
    moment = float((f * f * density).sum() / density.sum())
    return moment * (sigma**2 if work.gated else 1.0)


def activation(name: str, s: Any, xp: Any = np, erf: Any = None) -> Any:
    """The activation in plain float64; ``xp`` is numpy or torch, ``erf`` its error function."""
    if name == "gelu":
        return 0.5 * s * (1 + (erf or np.vectorize(math.erf))(s / math.sqrt(2)))
    if name == "gelu_tanh":
        return 0.5 * s * (1 + xp.tanh(math.sqrt(2 / math.pi) * (s + 0.044715 * s * s * s)))
    if name in ("silu", "quick_gelu", "sigmoid"):
        gate = 1 / (1 + xp.exp(-s * (1.702 if name == "quick_gelu" else 1.0)))
        return gate if name == "sigmoid" else s * gate
    if name in ("relu", "relu2"):
        r = s * (s > 0)
        return r if name == "relu" else r * r
    if name == "tanh":
        return xp.tanh(s)
    assert name == "identity"
    return s


def _mix(h: Any) -> Any:
    """A 32-bit finalizer; the masks turn arithmetic shifts into logical ones."""
    h = h ^ ((h >> 16) & 0xFFFF)
    h = h * 0x7FEB352D
    h = h ^ ((h >> 15) & 0x1FFFF)
    h = h * _int32(0x846CA68B)
    return h ^ ((h >> 16) & 0xFFFF)


def _int32(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def _seed(name: str, layer: int) -> int:
    return zlib.crc32(f"{name}/{layer}".encode())

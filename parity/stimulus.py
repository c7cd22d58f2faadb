"""The bytes both frameworks are fed: made once a case from its seed, stored raw, named by their sha256."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .contract.problem import Problem
from .protocol import Blob, digest
from .rounding import NUMPY_DTYPES, round_to

# The share of zeros among integer weights: keeps h and y of wide layers inside a 16-bit format's exact range.
INTEGER_DENSITY = 0.25


def shapes(problem: Problem) -> dict[str, tuple[int, ...]]:
    """Every array of ``problem`` in the canonical layout: x ``[m, k]``, weights ``[in, out]``, biases ``[out]``."""
    m, k, h, n = problem.m, problem.in_features, problem.hidden_features, problem.out_features
    found: dict[str, tuple[int, ...]] = {"x": (m, k), "w_up": (k, h), "w_down": (h, n)}
    if problem.gated:
        found["w_gate"] = (k, h)
    for layer, there, size in (
        ("up", problem.bias_up, h),
        ("gate", problem.bias_gate, h),
        ("down", problem.bias_down, n),
    ):
        if there:
            found[f"b_{layer}"] = (size,)
    return found


def generate(problem: Problem, kind: str, seed: int) -> dict[str, np.ndarray]:
    """The arrays of ``problem``, in its dtype; the same for the same arguments on every machine.

    "normal": x of variance 1, weights of 1 / fan in, biases of 0.01, so that s and y are of order one. "integer":
    everything in {-1, 0, 1}. "special": NaN payloads, infinities, -0, subnormals and the extremes of the format.
    """
    made = {}
    for name, shape in shapes(problem).items():
        # A stream an array, by its name: a bias more leaves all other arrays as they are.
        generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
        made[name] = KINDS[kind](generator, name, shape, problem.dtype)
    return made


def upstream(problem: Problem, kind: str, seed: int) -> np.ndarray:
    """The gradient of y that a backward starts from, drawn as x is."""
    generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(b"dy")]))
    return KINDS[kind](generator, "x", (problem.m, problem.out_features), problem.dtype)


def save(arrays: dict[str, np.ndarray], folder: Path) -> dict[str, Blob]:
    """Writes each array's bytes to a file of its own in ``folder``."""
    blobs = {}
    for name, array in arrays.items():
        path = folder / f"{name}.bin"
        data = array.tobytes()
        path.write_bytes(data)
        blobs[name] = Blob(path=str(path), dtype=array.dtype.name, shape=array.shape, sha256=digest(data))
    return blobs


def load(blob: Blob) -> np.ndarray:
    """The array of ``blob``. Raises ValueError if the file's sha256 is another."""
    return np.frombuffer(blob.read(), NUMPY_DTYPES[blob.dtype]).reshape(blob.shape)


def _normal(generator: np.random.Generator, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    scale = {"x": 1.0, "b": 0.1, "w": max(1, shape[0]) ** -0.5}[name[0]]
    return round_to(generator.standard_normal(shape, dtype=np.float32) * np.float32(scale), dtype)


def _integer(generator: np.random.Generator, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    values = generator.choice(
        [-1.0, 0.0, 1.0], shape, p=[INTEGER_DENSITY / 2, 1 - INTEGER_DENSITY, INTEGER_DENSITY / 2]
    )
    return round_to(values, dtype)


def _special(generator: np.random.Generator, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    # A third of each: any bit pattern, NaN with any payload (or an infinity), and the edges of the format.
    target = NUMPY_DTYPES[dtype]
    unsigned = np.dtype(f"u{target.itemsize}")
    sign, infinity = 1 << (8 * target.itemsize - 1), int(np.array(np.inf, target).view(unsigned))
    edges = [0, 1, infinity - 1, infinity, infinity | 1, sign - 1]
    patterns = generator.integers(0, 2 * sign, shape, dtype=np.uint64)
    chosen = generator.choice(np.array([*edges, *(edge | sign for edge in edges)], np.uint64), shape)
    third = generator.integers(0, 3, shape)
    return np.choose(third, [patterns, patterns | np.uint64(infinity), chosen]).astype(unsigned).view(target)


KINDS: dict[str, Callable[[np.random.Generator, str, tuple[int, ...], str], np.ndarray]] = {
    "normal": _normal,
    "integer": _integer,
    "special": _special,
}

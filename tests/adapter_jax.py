"""Canonical numpy operands into jaxfused and its stages back."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from yardstick import Draw, upstream

from jaxfused import functional


def operands(arrays: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """The arguments of fused_mlp: weights as Flax holds them, [in, out]."""
    return {name: jnp.asarray(array) for name, array in arrays.items()}


def gradients(drawn: Draw, save: str = "preact", dy: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The stages of the backward for ``dy``, or ``upstream(drawn)``."""
    found = functional.gradients(
        jnp.asarray(upstream(drawn) if dy is None else dy), **operands(drawn.arrays), **drawn.options, save=save
    )
    return {name: np.asarray(array) for name, array in found.items()}


def run(drawn: Draw) -> dict[str, np.ndarray]:
    found = functional.stages(**operands(drawn.arrays), **drawn.options)
    return {stage: np.asarray(array) for stage, array in found.items()}

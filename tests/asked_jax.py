"""Launches of jaxfused's tiled/hopper, none of which is run."""

import jax.numpy as jnp
import pytest

from jaxfused import launch_tiled_hopper


def launches(monkeypatch: pytest.MonkeyPatch) -> list:
    """(work, tiling) of every launch from now on; the results are zeros."""
    found = []

    def launched(kernel, device, work, tiling, operands, outputs, out, **constants):
        found.append((work, tiling))
        return {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in out.items()}

    monkeypatch.setattr(launch_tiled_hopper, "_launch", launched)
    return found

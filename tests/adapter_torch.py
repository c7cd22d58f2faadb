"""Canonical numpy operands into torchfused and its stages back."""

from collections.abc import Mapping

import numpy as np
import torch
from yardstick import Draw, upstream

from parity.rounding import NUMPY_DTYPES
from torchfused import functional

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def to_torch(array: np.ndarray, *, transpose: bool = False) -> torch.Tensor:
    bits = torch.from_numpy(np.ascontiguousarray(array.T if transpose else array).view(f"i{array.itemsize}"))
    return bits.view(getattr(torch, array.dtype.name)).to(DEVICE)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    host = tensor.detach().cpu().contiguous()
    bits = host.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[host.element_size()]).numpy()
    return bits.view(NUMPY_DTYPES[str(host.dtype).removeprefix("torch.")])


def operands(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The arguments of fused_mlp: weights as nn.Linear holds them, [out, in]."""
    return {name: to_torch(array, transpose=name.startswith("w_")) for name, array in arrays.items()}


@torch.no_grad()
def gradients(drawn: Draw, save: str = "preact", dy: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The stages of the backward for ``dy``, or ``upstream(drawn)``, weights' in the canonical layout."""
    found = functional.gradients(
        to_torch(upstream(drawn) if dy is None else dy), **operands(drawn.arrays), **drawn.options, save=save
    )
    return {n: to_numpy(t.t() if n.startswith("d_w_") else t) for n, t in found.items()}


@torch.no_grad()
def run(drawn: Draw) -> dict[str, np.ndarray]:
    found = functional.stages(**operands(drawn.arrays), **drawn.options)
    return {stage: to_numpy(tensor) for stage, tensor in found.items()}

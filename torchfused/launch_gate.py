"""Strategy ``library``, where no gradient is wanted: the gate's product in one launch instead of torch's two."""

from functools import lru_cache

import torch

from .device import device_of
from .kernels.gate import gate_fwd_kernel
from .launcher import Launcher
from .reference import eager_gating
from .vendor import ACTIVATIONS

# Smaller ones are computed faster than two operations are launched.
_FEWEST = 2**18
_BLOCK = 1024
# A torch built with another CUDA has another erf, and so other bits than the spelling.
_BUILT = (torch.version.cuda or "").startswith("13.")


def gating(activation: str, s: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """``act(s) * u``, in the memory of ``u`` where it is launched: of many elements side by side on a GPU of compute
    capability 8.0 or more. torch's bits, as a plan of the vendor's order has them (contract/vendor.py)."""
    device = device_of(s)
    served = device.kind == "gpu" and device.capability >= (8, 0) and s.is_contiguous() and u.is_contiguous()
    return (launched if _BUILT and served and s.numel() >= _FEWEST else eager_gating)(activation, s, u)


def launched(activation: str, s: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """It, in the memory of ``u``; both lie without gaps."""
    _launcher(activation, s.numel())((s, u, u))
    return u


@lru_cache(maxsize=256)
def _launcher(activation: str, elements: int) -> Launcher:
    constants = {"ACTIVATION": ACTIVATIONS[activation], "BLOCK": _BLOCK}
    return Launcher(
        gate_fwd_kernel, -(elements // -_BLOCK), (elements,), constants, {"num_warps": 4, "enable_fp_fusion": False}
    )

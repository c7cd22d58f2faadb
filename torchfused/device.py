"""Fills contract.Device from torch."""

from functools import cache

import torch
from triton import knobs

from parity.contract.problem import Device

# Triton decides when a kernel is decorated: the setting at import is the one that counts, also for tensors on a GPU.
_INTERPRETED = knobs.runtime.interpret


def device_of(x: torch.Tensor | torch.device) -> Device:
    """The Device that ``x`` lives on, or is."""
    device = x if isinstance(x, torch.device) else x.device
    if _INTERPRETED and device.type in ("cpu", "cuda"):
        return Device(kind="interpreter")
    return _gpu(device.index) if device.type == "cuda" else Device(kind="cpu", name=device.type)


@cache
def _gpu(index: int) -> Device:
    found = torch.cuda.get_device_properties(index)
    return Device(
        kind="gpu",
        name=found.name,
        sm_count=found.multi_processor_count,
        smem_bytes=found.shared_memory_per_block_optin,
        capability=(found.major, found.minor),
        # Its own eager GEMMs are what a plan of the vendor's order promises: of another build they may add otherwise.
        vendor=f"torch {torch.__version__}",
    )

"""Fills contract.Device from torch."""

from functools import cache

import torch
from triton import knobs

from parity.contract.problem import Device


def device_of(x: torch.Tensor) -> Device:
    """The Device that ``x`` lives on."""
    if x.is_cuda:
        return _gpu(x.get_device())
    return Device(kind="interpreter" if knobs.runtime.interpret else "cpu")


@cache
def _gpu(index: int) -> Device:
    found = torch.cuda.get_device_properties(index)
    return Device(
        kind="gpu",
        name=found.name,
        sm_count=found.multi_processor_count,
        smem_bytes=found.shared_memory_per_block_optin,
        capability=(found.major, found.minor),
    )

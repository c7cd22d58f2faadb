"""The machine's first NVIDIA GPU, asked of the driver itself: the controller imports no framework."""

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

from .contract.problem import Device

# CUdevice_attribute of the driver's cuda.h.
SM_COUNT, CAPABILITY_MAJOR, CAPABILITY_MINOR, SMEM_OPTIN = 16, 75, 76, 97


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """What the driver says of its first device."""

    device: Device
    driver: str


def find_gpu() -> Gpu | None:
    """The first GPU that CUDA_VISIBLE_DEVICES lets through; None without one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    handle = ctypes.c_int()
    name = ctypes.create_string_buffer(128)
    driver.cuDeviceGet(ctypes.byref(handle), 0)
    driver.cuDeviceGetName(name, len(name), handle)

    def attribute(which: int) -> int:
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), which, handle)
        return value.value

    device = Device(
        kind="gpu",
        name=name.value.decode(),
        sm_count=attribute(SM_COUNT),
        smem_bytes=attribute(SMEM_OPTIN),
        capability=(attribute(CAPABILITY_MAJOR), attribute(CAPABILITY_MINOR)),
    )
    return Gpu(device=device, driver=_driver_version())


def _driver_version() -> str:
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "unknown"
    found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", text)
    return found.group(1) if found else "unknown"

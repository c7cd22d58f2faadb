"""Fills contract.Device from jax."""

import os
from functools import cache
from typing import Any

import jax
from jax.core import Tracer

from parity.contract.problem import Device, smem_of


def device_of(x: jax.Array) -> Device:
    """The Device that ``x`` lives on; under a trace, the process' default one."""
    device = _default() if isinstance(x, Tracer) else next(iter(x.devices()))
    if device.platform == "gpu":
        return _gpu(device)
    return Device(kind="interpreter" if interpreted() else "cpu")


def interpreted() -> bool:
    """Whether JAXFUSED_INTERPRET asks for Pallas' interpreter where there is no GPU."""
    return os.environ.get("JAXFUSED_INTERPRET", "0") not in ("", "0")


def _default() -> Any:
    chosen = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    return jax.local_devices(backend=chosen)[0] if chosen is None or isinstance(chosen, str) else chosen


@cache
def _gpu(device: Any) -> Device:
    major, minor = str(device.compute_capability).split(".")
    capability = (int(major), int(minor))
    return Device(
        kind="gpu",
        name=device.device_kind,
        sm_count=device.core_count,
        smem_bytes=smem_of(capability),
        capability=capability,
        library="xla",
    )

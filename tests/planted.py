"""Specs of planted_worker.py's workers, and where they seem to run: on a GPU, so that equal bits are promised."""

import os
from pathlib import Path

from parity.contract.problem import Device
from parity.process import Spec
from parity.run import Where

GPU = Device(kind="gpu", name="emulated", sm_count=132, smem_bytes=232448, capability=(9, 0))
CPU = Device(kind="interpreter")


def specs(fault: str = "", module: str = "planted_worker", *arguments: str) -> list[Spec]:
    """Both workers; the torch one's fused runner has the fault."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    return [
        Spec(name=name, module=module, arguments=(name, fault, *arguments), environment={"PYTHONPATH": path})
        for name in ("jax", "torch")
    ]


def where(fault: str = "", device: Device = GPU) -> Where:
    """A machine of these workers."""
    return Where(device=device, workers=specs(fault), case_seconds=60.0)

"""Compiles the Gluon kernels for compute capability 9.0 without a GPU, as launch_decode_hopper.py launches them:
``compile_gluon.py`` prints one JSON object a launch. A process of its own: it takes the place of Triton's driver."""

import json

import torch
import triton
from compile_triton import usage
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from parity.contract.activations import ACTIVATIONS
from parity.contract.plan import Plan
from parity.contract.problem import Device, smem_of
from torchfused import launch_decode_hopper

H200 = Device(kind="gpu", name="NVIDIA H200", sm_count=132, smem_bytes=smem_of((9, 0)), capability=(9, 0))
INSTRUCTIONS = ("wgmma.mma_async", "fma.rn.f32", "div.rn.f32", "ex2.approx", "cp.async.bulk.tensor")
# The hand-over: one arrival, acquired, and two fences between ordinary accesses and TMA's.
INSTRUCTIONS += ("atom.global.gpu.acq_rel.add", "ld.acquire.gpu", "fence.proxy.async.global")


class Driver(DriverBase):
    """One that has a device to compile for, and none to launch on."""

    map_python_to_cpp_type = None

    def __init__(self) -> None:
        pass

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> None:
        return None

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


class Compiled:
    """Stands for the kernel: a launch compiles it and says what came out."""

    def __init__(self, kernel, found: dict) -> None:
        self.kernel, self.found = kernel, found

    def __getitem__(self, grid):
        def launched(*args, **options):
            done = self.kernel.warmup(*args, grid=grid, **options)
            ptx = done.asm["ptx"]
            self.found |= {"shared": done.metadata.shared, "programs": grid[0], **usage(done.asm["cubin"])}
            self.found |= {name: ptx.count(name) for name in INSTRUCTIONS}

        return launched


def compiled(m: int, k: int, h: int, n: int, *, activation: str, gated: bool, dtype: str, taps: bool) -> dict:
    def held(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=getattr(torch, dtype))

    found = {"m": m, "activation": activation, "gated": gated, "dtype": dtype, "limit": H200.smem_bytes}
    kernel = launch_decode_hopper.decode_fwd_kernel
    launch_decode_hopper.decode_fwd_kernel = Compiled(kernel, found)
    launch_decode_hopper.decode(
        Plan(strategy="decode", backend="hopper"), H200, held(m, k), held(h, k), held(n, h),
        w_gate=held(h, k) if gated else None, b_up=held(h), b_gate=held(h) if gated else None, b_down=held(n),
        activation=activation, precision="ieee", taps=torch.float32 if taps else None,
    )  # fmt: skip
    launch_decode_hopper.decode_fwd_kernel = kernel
    return found


if __name__ == "__main__":
    triton.runtime.driver.set_active(Driver())
    launch_decode_hopper.arrivals_of = lambda device: torch.zeros(1, dtype=torch.int32)
    sizes = {"k": 512, "h": 768, "n": 320}
    cases = [(m, "silu", gated, "bfloat16") for m in (1, 16, 17, 64) for gated in (False, True)]
    cases += [(8, name, True, "float16") for name in ACTIVATIONS]
    for i, (m, activation, gated, dtype) in enumerate(cases):
        done = compiled(m, **sizes, activation=activation, gated=gated, dtype=dtype, taps=bool(i % 2))
        print(json.dumps(done), flush=True)

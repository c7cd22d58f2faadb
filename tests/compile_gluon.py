"""Compiles the Gluon kernels for compute capability 9.0 without a GPU, as the launch rooms launch them:
``compile_gluon.py`` prints one JSON object a launch. A process of its own: it takes the place of Triton's driver."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
import triton
from compile_triton import usage
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from parity.contract.activations import ACTIVATIONS
from parity.contract.choice import choose
from parity.contract.plan import Plan
from parity.contract.problem import Device, Problem, smem_of
from parity.contract.request import NAMES
from parity.contract.tiles import Tiles
from torchfused import launch, launch_decode_hopper, launch_tiled_hopper

# No name that a table of measured tiles has: what is compiled hangs on the model alone.
H200 = Device(kind="gpu", name="an H200", sm_count=132, smem_bytes=smem_of((9, 0)), capability=(9, 0))
INSTRUCTIONS = ("wgmma.mma_async", "fma.rn.f32", "div.rn.f32", "ex2.approx", "cp.async.bulk.tensor")
# The hand-over: one arrival, acquired, and two fences between ordinary accesses and TMA's.
INSTRUCTIONS += ("atom.global.gpu.acq_rel.add", "ld.acquire.gpu", "fence.proxy.async.global")


ROOMS = (launch_decode_hopper, launch_tiled_hopper)


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

    def __init__(self, kernel, found: list[dict]) -> None:
        self.kernel, self.found = kernel, found

    def __getitem__(self, grid):
        def launched(*args, **options):
            done = self.kernel.warmup(*args, grid=grid, **options)
            ptx = done.asm["ptx"]
            told = {"kernel": self.kernel.fn.__name__, "limit": H200.smem_bytes, "programs": grid[0]}
            told |= {"shared": done.metadata.shared, **usage(done.asm["cubin"])}
            self.found.append(told | {name: ptx.count(name) for name in INSTRUCTIONS})

        return launched


def held(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)


def compiled(problem: Problem, plan: Plan, *, taps: bool = False, train: bool = False) -> list[dict]:
    """The launches of one MLP, forward and, to ``train``, of its gradients."""
    dtype = getattr(torch, problem.dtype)
    m, k, h, n = problem.m, problem.in_features, problem.hidden_features, problem.out_features
    of = partial(held, dtype=dtype)
    x, w_up, w_down, w_gate = of(m, k), of(h, k), of(n, h), of(h, k) if problem.gated else None
    options = {"activation": problem.activation, "precision": "ieee"}
    biases = {"b_up": of(h), "b_gate": of(h) if problem.gated else None, "b_down": of(n)}
    found: list[dict] = []
    rooms = [(room, name) for room in ROOMS for name in vars(room) if name.endswith("_kernel")]
    kernels = [getattr(room, name) for room, name in rooms]
    for (room, name), kernel in zip(rooms, kernels, strict=True):
        setattr(room, name, Compiled(kernel, found))
    plan = choose(problem, H200, plan).plan
    tapped = dtype if train else torch.float32 if taps else None
    stages = launch.forward(plan, H200, x, w_up, w_down, w_gate=w_gate, **biases, **options, taps=tapped)
    if train:
        for kept in (("s", "u"), ("s", "u", "h")):
            saved = {name: stages[name] for name in kept if name in stages}
            launch.tiled_backward(
                plan, H200, of(m, n), x, w_up, w_down, w_gate=w_gate, saved=saved, needs=NAMES[:4], **options
            )  # fmt: skip
    for (room, name), kernel in zip(rooms, kernels, strict=True):
        setattr(room, name, kernel)
    told = {"activation": problem.activation, "gated": problem.gated, "plan": str(plan)}
    return [told | case for case in found]


def cases() -> Iterator[tuple[Problem, Plan, dict]]:
    decode, tiled = (Plan(strategy=name, backend="hopper") for name in ("decode", "tiled"))
    sizes = {"in_features": 512, "hidden_features": 768, "out_features": 320}
    few = [(m, "silu", gated, "bfloat16") for m in (1, 16, 17, 64) for gated in (False, True)]
    few += [(8, name, True, "float16") for name in ACTIVATIONS]
    for i, (m, activation, gated, dtype) in enumerate(few):
        problem = Problem(m=m, **sizes, activation=activation, gated=gated, dtype=dtype)
        yield problem, decode, {"taps": bool(i % 2)}
    wide = {"in_features": 4096, "hidden_features": 8192, "out_features": 4096}
    for i, activation in enumerate(ACTIVATIONS):
        problem = Problem(m=4096, **wide, activation=activation, gated=bool(i % 2), dtype="bfloat16")
        yield problem, tiled, {"train": True}
    # Each warpgroup's own tiles, and those that both share.
    small = {"m": 300, **sizes, "activation": "silu", "dtype": "float16"}
    own = replace(tiled, up=Tiles(m=128, n=64, k=64), down=Tiles(m=128, n=128, k=64))
    for gated in (False, True):
        yield Problem(**small, gated=gated), own, {}
        shared = replace(tiled, up=Tiles(m=128, n=128 if gated else 256, k=64), down=Tiles(m=128, n=256, k=64))
        yield Problem(**small, gated=gated), shared, {"train": True}


if __name__ == "__main__":
    triton.runtime.driver.set_active(Driver())
    launch_decode_hopper.arrivals_of = lambda device: torch.zeros(1, dtype=torch.int32)
    for problem, plan, options in cases():
        for done in compiled(problem, plan, **options):
            print(json.dumps(done), flush=True)

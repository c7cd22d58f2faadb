"""Compiles the Triton kernels for a GPU that need not be there, exactly as launch.py launches them:
``compile_triton.py ARCH`` prints one JSON object a launch. A process of its own, without TRITON_INTERPRET: a decorated
kernel is interpreted or compiled for good."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from parity.contract.choice import choose
from parity.contract.plan import Plan
from parity.contract.problem import Device, Problem, smem_of
from torchfused import launch, launch_decode_portable, launch_tiled_portable
from torchfused.activations import ACTIVATIONS

CUOBJDUMP = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int32: "*i32"}
INSTRUCTIONS = (
    "wgmma.mma_async", "mma.sync", "tcgen05.mma", "fma.rn.f32", "ex2.approx", "div.full.f32", "div.rn.f32", "rcp.approx"
)  # fmt: skip
HANDOVER = ("gpu.release.add", "gpu.acquire")
KERNELS = (
    (launch_tiled_portable, "linear_fwd_kernel"),
    (launch_tiled_portable, "hidden_bwd_kernel"),
    (launch_tiled_portable, "product_bwd_kernel"),
    (launch_decode_portable, "decode_fwd_kernel"),
)
SMS = {80: 108, 86: 84, 90: 132, 100: 148}


class Compiled:
    """Stands for a kernel in a launch room: a launch compiles it for ``arch`` and is written down, nothing runs."""

    def __init__(self, kernel: triton.JITFunction, arch: int, found: list[dict]) -> None:
        self.kernel, self.arch, self.found = kernel, arch, found

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        return self.compile

    def compile(
        self,
        *args: torch.Tensor | int,
        num_warps: int,
        num_stages: int,
        enable_fp_fusion: bool,
        launch_cooperative_grid: bool = False,
        **constants: object,
    ) -> None:
        fn = self.kernel
        signature, attributes = {}, {}
        held: dict[str, object] = dict(constants)
        # As the launcher specialises: a stride of one is a constant; which sizes and pointers 16 divides is told.
        for i, (parameter, arg) in enumerate(zip(fn.params, args, strict=False)):
            if isinstance(arg, torch.Tensor):
                signature[parameter.name] = POINTERS[arg.dtype]
            elif arg == 1 and not parameter.do_not_specialize:
                held[parameter.name] = 1
            else:
                signature[parameter.name] = "i32"
            divisible = isinstance(arg, torch.Tensor) or (arg % 16 == 0 and not parameter.do_not_specialize)
            if divisible and parameter.name in signature:
                attributes[(i,)] = [["tt.divisibility", 16]]
        signature = {name: signature.get(name, "constexpr") for name in fn.arg_names}
        constexprs = {(fn.arg_names.index(name),): value for name, value in held.items()}
        source = ASTSource(fn=fn, signature=signature, constexprs=constexprs, attrs=attributes)
        options = {
            "num_warps": num_warps,
            "num_stages": num_stages,
            "enable_fp_fusion": enable_fp_fusion,
            "launch_cooperative_grid": launch_cooperative_grid,
        }
        kernel = triton.compile(source, target=GPUTarget("cuda", self.arch, 32), options=options)
        ptx = kernel.asm["ptx"]
        self.found.append(
            {
                "kernel": fn.__name__,
                "tiles": f"{constants['BM']}x{constants['BN']}x{constants['BK']}",
                "schedule": [num_warps, num_stages],
                "shared": kernel.metadata.shared,
                **usage(kernel.asm["cubin"]),
                "rounds": bool(re.search(r"cvt\.rn\.(bf16|f16)", ptx)),
                **{name: ptx.count(name) for name in INSTRUCTIONS + HANDOVER},
            }
        )


def usage(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, and its bytes of stack and local memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    (registers,), (stack,), (local,) = (re.findall(rf"{name}:(\d+)", text) for name in ("REG", "STACK", "LOCAL"))
    return {"registers": int(registers), "spilled": int(stack) + int(local)}


def launches(
    arch: int,
    problem: Problem,
    *,
    plan: Plan | None = None,
    taps: bool = False,
    train: bool = False,
    layout: str = "linear",
) -> list[dict]:
    """Each launch of one forward pass, and of one backward where ``train``. ``layout``: how the weights are held:
    "linear" as nn.Linear does, "transposed", or "strided" with steps everywhere, x as well."""
    capability = divmod(arch, 10)
    device = Device(kind="gpu", smem_bytes=smem_of(capability), capability=capability, sm_count=SMS[arch])
    plan = choose(problem, device, plan or Plan()).plan
    dtype = getattr(torch, problem.dtype)
    m, k, h, n = problem.m, problem.in_features, problem.hidden_features, problem.out_features

    def held(*shape: int, weight: bool = False) -> torch.Tensor:
        if layout == "strided":
            return torch.empty([2 * size for size in shape], dtype=dtype, device="meta")[
                (slice(None, None, 2),) * len(shape)
            ]
        if layout == "transposed" and weight:
            return torch.empty(shape[::-1], dtype=dtype, device="meta").t()
        return torch.empty(shape, dtype=dtype, device="meta")

    found: list[dict] = []
    launch_decode_portable.arrivals_of = lambda device: torch.empty(1, dtype=torch.int32, device=device)
    for room, name in KERNELS:
        kernel = getattr(room, name)
        setattr(room, name, Compiled(kernel.kernel if isinstance(kernel, Compiled) else kernel, arch, found))
    x, w_up, w_down = held(m, k), held(h, k, weight=True), held(n, h, weight=True)
    w_gate = held(h, k, weight=True) if problem.gated else None
    options = {"activation": problem.activation, "precision": problem.precision}
    biases = {"b_up": held(h), "b_gate": held(h) if problem.gated else None, "b_down": held(n)}
    tapped = dtype if train else torch.float32 if taps else None
    stages = launch.forward(plan, device, x, w_up, w_down, w_gate=w_gate, **biases, **options, taps=tapped)
    if train:
        saved = {name: stages[name] for name in ("s", "u") if name in stages}
        needs = ("x", "w_up", "b_up")
        launch.tiled_backward(
            plan, device, held(m, n), x, w_up, w_down, w_gate=w_gate, saved=saved, needs=needs, **options
        )  # fmt: skip
    return [case | {"limit": device.smem_bytes} for case in found]


def cases(arch: int) -> Iterator[tuple[str, Problem, dict]]:
    """Few, some and many rows in every precision, plain and gated, trained; layouts; then, on one architecture, each
    activation once."""
    layer = {"in_features": 4096, "hidden_features": 4096, "out_features": 4096}
    for m in (1, 64, 512) if arch != 86 else (512,):
        for dtype, precision in (("bfloat16", "ieee"), ("float32", "ieee"), ("float32", "tf32")):
            for gated in (False, True):
                sizes = layer if gated else layer | {"in_features": 4095}
                problem = Problem(m=m, **sizes, activation="gelu", gated=gated, dtype=dtype, precision=precision)
                train = {"train": True} if m == 512 else {"taps": not gated}
                yield f"{dtype}-{precision}-{m}-{'gated' if gated else 'plain'}", problem, train
    for m in (1, 64):
        for chains in (1, 4):
            few = Problem(m=m, **layer, gated=m == 1, dtype="bfloat16")
            yield f"decode-{m}-{chains}", few, {"plan": Plan(strategy="decode", split_k=chains)}
    half = Problem(m=4096, **layer, dtype="float16")
    gated = Problem(m=4096, **layer, gated=True, dtype="float16")
    yield "float16", half, {"train": True}
    yield "float16-gated", gated, {"train": True}
    yield "split", half, {"plan": Plan(split_k=3)}
    yield "strided", half, {"layout": "strided"}
    yield "transposed-gated", gated, {"layout": "transposed"}
    if arch == 90:
        for name in ACTIVATIONS:
            wide = Problem(m=4096, **layer, activation=name, gated=True, dtype="bfloat16")
            yield name, wide, {"train": True}
            yield f"vendor-{name}", wide, {"plan": Plan(order="vendor", split_k=2), "train": True}
        few = Problem(m=16, **layer, activation="gelu", dtype="float16")
        yield "vendor-decode", few, {"plan": Plan(strategy="decode", order="vendor", split_k=(1, 2))}


if __name__ == "__main__":
    target, only = int(sys.argv[1]), sys.argv[2:]
    for name, problem, options in cases(target):
        if not only or name in only:
            for case in launches(target, problem, **options):
                print(json.dumps({"case": name} | case), flush=True)

"""Compiles the Triton kernel for a GPU that need not be there, as launch.py would launch it: ``compile_triton.py ARCH``
prints one JSON object a case. A process of its own, without TRITON_INTERPRET: a decorated kernel is interpreted or
compiled for good."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from parity.contract.plan import Plan, choose
from parity.contract.problem import Device, Problem, smem_of
from torchfused import launch
from torchfused.activations import ACTIVATIONS
from torchfused.kernels.tiled import linear_fwd_kernel

CUOBJDUMP = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
POINTERS = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16"}
# The strides of one: what nn.Linear holds; weights held the other way around; slices with steps everywhere.
CONTIGUOUS = ("stride_xk", "stride_wk", "stride_gk", "stride_b", "stride_bg")
TRANSPOSED = ("stride_xk", "stride_wn", "stride_gn", "stride_b", "stride_bg")
STRIDED = ()
INSTRUCTIONS = ("wgmma.mma_async", "mma.sync", "tcgen05.mma", "fma.rn.f32", "ex2.approx", "div.full.f32", "div.rn.f32")


def cases(arch: int) -> dict[str, tuple[Problem, dict]]:
    """Few, some and many rows in every precision, plain and gated; then each activation once, on one architecture."""
    found = {}
    layer = {"in_features": 4096, "hidden_features": 4096, "out_features": 4096}
    for m in (1, 64, 512) if arch != 86 else (512,):
        for dtype, precision in (("bfloat16", "ieee"), ("float32", "ieee"), ("float32", "tf32")):
            for gated in (False, True):
                problem = Problem(m=m, **layer, activation="gelu", gated=gated, dtype=dtype, precision=precision)
                name = f"{dtype}-{precision}-{m}-{'gated' if gated else 'plain'}"
                found[name] = problem, {"even": gated, "taps": not gated}
    half = Problem(m=512, **layer, dtype="float16")
    found |= {"float16": (half, {}), "split": (half, {"split_k": 3}), "strided": (half, {"inner": STRIDED})}
    gated = Problem(m=512, **layer, gated=True, dtype="float16")
    found |= {"strided-gated": (gated, {"inner": STRIDED}), "transposed-gated": (gated, {"inner": TRANSPOSED})}
    if arch == 90:
        for name in ACTIVATIONS:
            found[name] = Problem(m=1, **layer, activation=name, dtype="bfloat16"), {}
    return found


def compiled(arch: int, problem: Problem, *, even=True, taps=False, split_k=1, inner=CONTIGUOUS) -> dict:
    capability = divmod(arch, 10)
    device = Device(kind="gpu", smem_bytes=smem_of(capability), capability=capability)
    tiles = choose(problem, device, Plan()).plan.up
    warps, stages = launch._schedule(tiles, device, problem.dtype, 1 + problem.gated)
    constants = {
        "BM": tiles.m, "BN": tiles.n, "BK": tiles.k, "SPLIT_K": split_k, "GATED": problem.gated, "BIAS": True,
        "BIAS_GATE": problem.gated, "TAPS": taps, "TF32": problem.precision == "tf32", "EVEN_K": even,
        "GROUP_M": launch._GROUP_M, "ACTIVATION": ACTIVATIONS[problem.activation],
    }  # fmt: skip
    names = linear_fwd_kernel.arg_names
    # The launcher makes a stride of one a constant, and tells which sizes and pointers 16 divides.
    signature = {name: POINTERS["float32" if name in ("s_ptr", "u_ptr") else problem.dtype] for name in names[:8]}
    signature |= {name: "constexpr" if name in (*constants, *inner) else "i32" for name in names[8:]}
    divisible = [name for name in names if signature[name] != "constexpr" and (even or name != "K")]
    source = ASTSource(
        fn=linear_fwd_kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in (constants | dict.fromkeys(inner, 1)).items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in divisible},
    )
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": False}
    kernel = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    ptx = kernel.asm["ptx"]
    return {
        "shared": kernel.metadata.shared,
        "limit": device.smem_bytes,
        "spilled": spilled(kernel.asm["cubin"]),
        "rounding": problem.dtype if re.search(r"cvt\.rn\.(bf16|f16)", ptx) else "none",
        **{name: ptx.count(name) for name in INSTRUCTIONS},
    }


def spilled(cubin: bytes) -> int:
    """Bytes of stack and local memory a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    (stack,), (local,) = re.findall(r"STACK:(\d+)", text), re.findall(r"LOCAL:(\d+)", text)
    return int(stack) + int(local)


if __name__ == "__main__":
    target = int(sys.argv[1])
    for name, (problem, options) in cases(target).items():
        print(json.dumps({"case": name} | compiled(target, problem, **options)), flush=True)

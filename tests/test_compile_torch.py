"""The Triton kernels compiled for GPUs that need not be there: they fit, do not spill, and are spelled as agreed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from parity.contract.activations import ACTIVATIONS

# exp2 and reciprocal of each activation, a hardware instruction each.
EXPONENTIALS = {"gelu", "gelu_tanh", "quick_gelu", "silu", "sigmoid", "tanh"}
KERNELS = {"linear_fwd_kernel", "hidden_bwd_kernel", "product_bwd_kernel", "decode_fwd_kernel"}
# The sums over rows of float32 are IEEE whatever the precision: these tiles are theirs alone.
BIAS_SUMS = {"16x64x16"}
# Rows of 4095 numbers, which no wide load fits; slices with steps everywhere; a register or two short in float32.
SPILLS = {
    *((arch, "strided", "linear_fwd_kernel") for arch in (80, 86, 90, 100)),
    *((arch, "bfloat16-ieee-1-plain", "linear_fwd_kernel") for arch in (90, 100)),
    *((arch, "bfloat16-ieee-512-plain", "linear_fwd_kernel") for arch in (80, 86)),
    (90, "bfloat16-ieee-512-plain", "product_bwd_kernel"),
    (86, "float32-tf32-512-plain", "product_bwd_kernel"),
    *((80, f"float32-ieee-{m}-{form}", "linear_fwd_kernel") for m in (64, 512) for form in ("plain", "gated")),
    (100, "float32-ieee-512-gated", "product_bwd_kernel"),
    *(
        (100, f"float32-tf32-512-{form}", kernel)
        for form, kernel in (("plain", "hidden_bwd_kernel"), ("gated", "linear_fwd_kernel"))
    ),
    # 64 rows in one chain, where the matrix unit is another's.
    (100, "decode-64-1", "decode_fwd_kernel"),
}


def compile_for(arch: int) -> list[dict]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_triton.py")
    done = subprocess.run([sys.executable, script, str(arch)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {case["kernel"] for case in found} == KERNELS
    return found


@pytest.mark.parametrize("arch", [80, 86, 90, 100])
def test_every_launch_compiles(arch):
    for case in compile_for(arch):
        name, kernel = case["case"], case["kernel"]
        assert case["spilled"] == 0 or (arch, name, kernel) in SPILLS, case
        assert case["shared"] <= case["limit"], case
        # A decode launch releases its arrival once and acquires the others'.
        waits = int(kernel == "decode_fwd_kernel")
        assert (case["gpu.release.add"], case["gpu.acquire"]) == (waits, waits), case
        if name.startswith("vendor-"):
            # Its own spelling, in the epilogues alone.
            assert_vendor(case)
            continue
        # Reciprocals are the hardware's: no division is left in.
        assert case["div.rn.f32"] == case["div.full.f32"] == 0, case
        assert (case["rcp.approx"] > 0) == (case["ex2.approx"] > 0), case
        ieee = name.startswith("float32-ieee") or (name.startswith("float32") and case["tiles"] in BIAS_SUMS)
        if not name.startswith("float32"):
            # Tensor cores multiply: what is left in float32 is the epilogue, where nothing is contracted.
            assert case["fma.rn.f32"] == 0, case
            assert case["rounds"], case
        units = case["wgmma.mma_async"] + case["mma.sync"] + case["tcgen05.mma"]
        assert (units == 0) == ieee, case
        if arch == 90 and name in ("float16", "float16-gated", "split", *ACTIVATIONS) and case["tiles"][:2] != "16":
            assert case["wgmma.mma_async"] > 0, case
        if arch == 90 and name in ACTIVATIONS and kernel != "product_bwd_kernel":
            smooth = name in EXPONENTIALS and not (kernel == "linear_fwd_kernel" and "x256x" in case["tiles"])
            assert (case["ex2.approx"] > 0) == smooth, case


# What torch's spelling of an activation has beside products: fma, exp2, IEEE's division, the hardware's reciprocal.
VENDOR = {
    "gelu": (7, 1, 0, 0),
    "gelu_tanh": (6, 1, 0, 1),
    "quick_gelu": (4, 1, 1, 0),
    "silu": (4, 1, 1, 0),
    "sigmoid": (4, 1, 1, 0),
    "tanh": (5, 1, 0, 1),
    "decode": (7, 1, 0, 0),
}


def assert_vendor(case: dict) -> None:
    """Each instruction as often as any other of its activation, times how often torch's spelling has it."""
    assert case["div.full.f32"] == 0, case
    found = [case[name] for name in ("fma.rn.f32", "ex2.approx", "div.rn.f32", "rcp.approx")]
    want = VENDOR.get(case["case"].removeprefix("vendor-"), (0, 0, 0, 0))
    times = found[0] // want[0] if want[0] else 0
    if case["kernel"] == "hidden_bwd_kernel":
        # The derivative beside it is of our own spelling: an exp2 and a reciprocal more.
        assert found[1] == found[0] == 0 or found[1] > times, case
        own = found[1] - times * want[1]
        found[1], found[3] = found[1] - own, found[3] - own
    assert found == [times * count for count in want] or not any(found), case
    epilogue = (case["kernel"] == "linear_fwd_kernel" and case["tiles"] == "128x64x64") or "decode" in case["case"]
    assert not any(want) or not epilogue or times > 0, case

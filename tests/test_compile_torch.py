"""The Triton kernel compiled for GPUs that need not be there: fits, does not spill, and is spelled as agreed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from parity.contract.activations import ACTIVATIONS

# exp2 and division of each activation, a hardware instruction each.
EXPONENTIALS = {"gelu": 1, "gelu_tanh": 1, "quick_gelu": 1, "silu": 1, "sigmoid": 1, "tanh": 1}

# Taps over a ragged K; slices with steps everywhere, where no operand has an inner stride of one.
SPILLS = {(80, "float32-tf32-64-plain"), (80, "strided"), (86, "strided"), (90, "strided-gated")}


def compile_for(arch: int) -> dict[str, dict]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_triton.py")
    done = subprocess.run([sys.executable, script, str(arch)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {case.pop("case"): case for case in map(json.loads, done.stdout.splitlines())}
    assert len(found) >= 9
    return found


@pytest.mark.parametrize("arch", [80, 86, 90, 100])
def test_every_plan_compiles(arch):
    for name, case in compile_for(arch).items():
        assert case["spilled"] == 0 or (arch, name) in SPILLS, name
        assert case["shared"] <= case["limit"], name
        # Full-range division is spelled for all; the correctly rounded one is never left in.
        assert case["div.rn.f32"] == 0, name
        if not name.startswith("float32"):
            # Tensor cores multiply: what is left in float32 is the epilogue, where nothing is contracted.
            assert case["fma.rn.f32"] == 0, name
            assert case["rounding"] != "none", name
        units = case["wgmma.mma_async"] + case["mma.sync"] + case["tcgen05.mma"]
        assert (units == 0) == name.startswith("float32-ieee"), name
        if arch == 90 and name in ("bfloat16-ieee-512-plain", "bfloat16-ieee-512-gated", "float16", "split"):
            assert case["wgmma.mma_async"] > 0, name
        if arch == 90 and name in ACTIVATIONS:
            assert (case["ex2.approx"] > 0) == (name in EXPONENTIALS), name
            # One of each an element.
            assert case["div.full.f32"] == case["ex2.approx"], name

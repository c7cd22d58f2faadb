"""The Gluon kernels compiled for a GPU that need not be there: they fit, do not spill, and are spelled as agreed."""

import json
import os
import subprocess
import sys
from pathlib import Path

from parity.contract.activations import ACTIVATIONS

SMOOTH = {"gelu", "gelu_tanh", "quick_gelu", "silu", "sigmoid", "tanh"}


def test_every_launch_compiles():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_gluon.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {case["activation"] for case in found} == set(ACTIVATIONS)
    for case in found:
        assert case["spilled"] == 0, case
        assert case["shared"] <= case["limit"], case
        assert case["programs"] == 12, case
        # The tensor cores multiply, the bulk copy engine reads; the epilogue is not contracted.
        assert case["wgmma.mma_async"] > 0, case
        assert case["cp.async.bulk.tensor"] > 0, case
        assert (case["atom.global.gpu.acq_rel.add"], case["ld.acquire.gpu"], case["fence.proxy.async.global"]) == (
            1,
            1,
            2,
        )
        assert case["fma.rn.f32"] == case["div.rn.f32"] == 0, case
        assert (case["ex2.approx"] > 0) == (case["activation"] in SMOOTH), case

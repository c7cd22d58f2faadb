"""The Gluon kernels compiled for a GPU that need not be there: they fit, do not spill, and are spelled as agreed."""

import json
import os
import subprocess
import sys
from pathlib import Path

from parity.contract.activations import ACTIVATIONS

SMOOTH = {"gelu", "gelu_tanh", "quick_gelu", "silu", "sigmoid", "tanh"}

# Bytes of a thread that spill at most, beside 128 sums: of gated gradients of tanh-GELU and SiLU, and of gated h in
# tiles of each warpgroup's own, most where s and u are kept.
SPILLS = {"hidden_bwd_kernel": 56, "linear_fwd_kernel": 40}
KERNELS = {"decode_fwd_kernel", "linear_fwd_kernel", "hidden_bwd_kernel", "product_bwd_kernel"}


def test_every_launch_compiles():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_gluon.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {case["activation"] for case in found} == set(ACTIVATIONS)
    assert {case["kernel"] for case in found} == KERNELS
    for case in found:
        assert case["spilled"] <= SPILLS.get(case["kernel"], 0), case
        assert case["shared"] <= case["limit"], case
        # The tensor cores multiply, the bulk copy engine reads; the epilogue is not contracted.
        assert case["wgmma.mma_async"] > 0, case
        assert case["cp.async.bulk.tensor"] > 0, case
        assert case["fma.rn.f32"] == case["div.rn.f32"] == 0, case
        handed = [case[name] for name in ("atom.global.gpu.acq_rel.add", "ld.acquire.gpu", "fence.proxy.async.global")]
        if case["kernel"] == "decode_fwd_kernel":
            assert (case["programs"], handed) == (12, [1, 1, 2]), case
        else:
            assert handed == [0, 0, 0], case
        if case["kernel"] in ("decode_fwd_kernel", "hidden_bwd_kernel"):
            assert (case["ex2.approx"] > 0) == (case["activation"] in SMOOTH), case
        elif case["kernel"] == "product_bwd_kernel":
            assert case["ex2.approx"] == 0, case

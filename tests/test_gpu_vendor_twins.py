"""The twins on one GPU, a process each: the vendor's order gives the same bits in both, for every 16-bit number that an
activation can be given, and for layers."""

import pytest
from both_twins import told_by_both

pytestmark = pytest.mark.gpu

RUN = """
import sys
sys.path.insert(0, sys.argv[1])
import hashlib, json
from dataclasses import replace
import numpy as np
from adapter_{twin} import gradients, run
from parity.contract.activations import ACTIVATIONS
from parity.contract.plan import Plan
from parity.rounding import NUMPY_DTYPES
from yardstick import draw
found = {{}}

def keep(name, stages):
    for stage, values in stages.items():
        values = np.where(np.isnan(values.astype(np.float32)), values.dtype.type(np.nan), values)
        bits = np.ascontiguousarray(values).view(f"u{{values.itemsize}}")
        found[f"{{name}}-{{stage}}"] = hashlib.sha256(bits.tobytes()).hexdigest()

tiled, decode = (Plan(order="vendor", split_k=(2, 4), strategy=name) for name in ("tiled", "decode"))
for dtype in ("bfloat16", "float16"):
    every = np.arange(2**16, dtype=np.uint16).view(NUMPY_DTYPES[dtype]).reshape(-1, 1)
    one = np.ones((1, 1), every.dtype)
    for name in ACTIVATIONS:
        drawn = draw((2**16, 1, 1, 1), activation=name, dtype=dtype, plan=tiled, judged=False)
        keep(f"every-{{name}}-{{dtype}}", run(replace(drawn, arrays={{"x": every, "w_up": one, "w_down": one}})))
        for plan, m in ((tiled, 70), (decode, 16)):
            drawn = draw((m, 264, 392, 136), activation=name, gated=True, biases="ugd", dtype=dtype, plan=plan,
                         judged=False)
            keep(f"{{plan.strategy}}-{{name}}-{{dtype}}", run(drawn) | (gradients(drawn) if plan is tiled else {{}}))
for shape, name, gated in (((1024, 1024, 4096, 1024), "gelu", False), ((257, 4096, 14336, 4096), "silu", True)):
    plan = Plan(order="vendor", split_k=(1, 3))
    biases = "" if gated else "ud"
    drawn = draw(shape, activation=name, gated=gated, biases=biases, dtype="bfloat16", plan=plan, judged=False)
    keep(f"{{shape}}-{{name}}", run(drawn))
for name in ACTIVATIONS:
    drawn = draw((70, 264, 392, 136), activation=name, gated=True, biases="ugd", plan=tiled, judged=False)
    keep(f"float32-{{name}}", run(drawn))
print(json.dumps(found))
"""


def test_equal_bit_for_bit():
    found = told_by_both(RUN)
    jax, torch = found["jax"], found["torch"]
    assert jax.keys() == torch.keys()
    assert len(jax) > 100
    assert [key for key in jax if jax[key] != torch[key]] == []

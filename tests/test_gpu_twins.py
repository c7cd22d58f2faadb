"""The twins on one GPU, a process each: the same bits for every activation, forward and backward, and for whole layers
of a language model, whose gradients the parity run does not compare."""

import pytest
from both_twins import told_by_both

from parity.gpu import find_gpu

pytestmark = pytest.mark.gpu

RUN = """
import sys
sys.path.insert(0, sys.argv[1])
import hashlib, json
import numpy as np
from adapter_{twin} import gradients, run
from parity.contract.activations import ACTIVATIONS
from parity.contract.plan import Plan
from parity.contract.saved import SAVES
from yardstick import draw
found = {{}}
small = [((70, 264, 392, 136), name, True, "bfloat16", save) for name, save in zip(ACTIVATIONS, SAVES * 3)]
large = [((1024, 4096, 4096, 4096), "gelu_tanh", False, "bfloat16", "preact"),
         ((257, 4096, 14336, 4096), "silu", True, "bfloat16", "hidden")]
for shape, name, gated, dtype, save, backend in [(*case, backend) for case in small + large for backend in {backends}]:
    biases, plan = "ugd" if gated else "ud", Plan(backend=backend)
    drawn = draw(shape, activation=name, gated=gated, biases=biases, dtype=dtype, plan=plan, judged=False)
    for stage, values in (run(drawn) | gradients(drawn, save)).items():
        bits = np.ascontiguousarray(values.view(f"u{{values.itemsize}}"))
        found[f"{{backend}}-{{shape}}-{{name}}-{{stage}}"] = hashlib.sha256(bits.tobytes()).hexdigest()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, str]]:
    gpu = find_gpu()
    backends = ["portable", "hopper"] if gpu and gpu.device.capability == (9, 0) else ["portable"]
    return told_by_both(RUN, backends=backends)


def test_equal_bit_for_bit(results):
    jax, torch = results["jax"], results["torch"]
    for found in (jax, torch):
        hopper = {key.removeprefix("hopper-"): bits for key, bits in found.items() if key.startswith("hopper-")}
        assert [key for key, bits in hopper.items() if bits != found[f"portable-{key}"]] == []
    assert jax.keys() == torch.keys()
    assert len(jax) > 100
    assert [key for key in jax if jax[key] != torch[key]] == []

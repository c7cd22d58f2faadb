"""The twins on one GPU, a process each: the same bytes for every activation."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from parity.contract.activations import ACTIVATIONS

pytestmark = pytest.mark.gpu

RUN = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from parity.contract.activations import ACTIVATIONS
from parity.contract.plan import Plan
from yardstick import draw
from adapter_{twin} import run
found = {{}}
for name in ACTIVATIONS:
    for dtype, precision in (("float32", "ieee"), ("float32", "tf32"), ("float16", "ieee"), ("bfloat16", "ieee")):
        drawn = draw((70, 264, 392, 136), activation=name, gated=True, biases="ugd", dtype=dtype, precision=precision,
                     plan=Plan(split_k=(2, 1)))
        for stage, values in run(drawn).items():
            found[f"{{name}}-{{dtype}}-{{precision}}-{{stage}}"] = values.view(f"u{{values.itemsize}}")
np.savez(sys.argv[2], **found)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("twins")
    found = {}
    for twin in ("jax", "torch"):
        command = [sys.executable, "-c", RUN.format(twin=twin), str(Path(__file__).parent), str(folder / twin)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        found[twin] = np.load(folder / f"{twin}.npz")
    return found


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_equal_bit_for_bit(results, name):
    keys = [key for key in results["jax"].files if key.startswith(f"{name}-")]
    assert len(keys) == 16
    unequal = {key: int((results["jax"][key] != results["torch"][key]).sum()) for key in keys}
    assert unequal == dict.fromkeys(keys, 0)

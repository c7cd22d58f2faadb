"""What only a GPU can show of a decode plan in jax: the bits of tiled, alone, in a scan over layers, and each time."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from adapter_jax import operands, run
from test_gpu_jax import KINDS, drawn_as, same
from yardstick import draw

from jaxfused import fused_mlp
from parity.contract.activations import ACTIVATIONS
from parity.contract.plan import Plan

pytestmark = pytest.mark.gpu

DECODE, HOPPER = Plan(strategy="decode"), Plan(strategy="decode", backend="hopper")


def capability() -> str:
    gpus = [device for device in jax.devices() if device.platform == "gpu"]
    return str(gpus[0].compute_capability) if gpus else ""


on_hopper = pytest.mark.skipif(capability() != "9.0", reason="needs compute capability 9.0")
BOTH = [pytest.param(replace(DECODE, split_k=4), id="portable"), pytest.param(HOPPER, id="hopper", marks=on_hopper)]


@pytest.mark.parametrize("split", [(1, 1), (4, 4), (8, 2)])
@pytest.mark.parametrize(("dtype", "precision"), KINDS)
@pytest.mark.parametrize("gated", [False, True])
def test_bits_of_tiled(dtype, precision, gated, split):
    for m, k in ((1, 264), (64, 256)):
        drawn = drawn_as(dtype, precision, shape=(m, k, 392, 136), gated=gated, plan=replace(DECODE, split_k=split))
        assert same(run(drawn), run(replace(drawn, plan=Plan(split_k=split)))), (m, k)


@on_hopper
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("activation", "m"), list(zip(ACTIVATIONS, (1, 2, 7, 8, 9, 16, 17, 33, 64), strict=True)))
def test_bits_of_tiled_on_hopper(activation, m, gated, dtype):
    biases = "ugd" if gated else "ud"
    drawn = draw((m, 512, 768, 320), activation=activation, gated=gated, biases=biases, dtype=dtype, plan=HOPPER)
    found = run(drawn)
    drawn.check(found)
    assert same(found, run(replace(drawn, plan=Plan())))


@pytest.mark.parametrize("plan", BOTH)
def test_a_scan_over_layers_gives_the_same_bytes_each_time(plan):
    drawn = draw((2, 1024, 4096, 1024), activation="gelu_tanh", biases="ud", dtype="bfloat16", judged=False)
    given = operands(drawn.arrays)
    x = given.pop("x")
    layers = jax.tree.map(lambda a: jax.numpy.stack([a, a[::-1], a]), given)

    def model(x, plan):
        return jax.lax.scan(lambda x, layer: (fused_mlp(x, **layer, plan=plan), None), x, layers)[0]

    want = np.asarray(jax.jit(model, static_argnums=1)(x, Plan(split_k=plan.split_k))).tobytes()
    found = jax.jit(model, static_argnums=1)
    assert all(np.asarray(found(x, plan)).tobytes() == want for _ in range(200))

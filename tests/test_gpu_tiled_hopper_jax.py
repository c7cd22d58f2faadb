"""What only a GPU can show of strategy tiled on Hopper in jax: the bits of the portable kernels, and none that move.

A kernel takes longer to compile than all of its calls: each test compiles no more than it compares.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapter_jax import gradients, operands, run
from test_gpu_decode_jax import on_hopper
from test_gpu_jax import same
from yardstick import draw

from jaxfused import functional, fused_mlp, launch_tiled_hopper, launch_tiled_portable
from jaxfused.device import device_of
from parity.contract.activations import ACTIVATIONS
from parity.contract.hopper_table import tiling_for
from parity.contract.plan import Plan
from parity.contract.tiles import Tiles
from parity.contract.vendor import Order

pytestmark = [pytest.mark.gpu, on_hopper, pytest.mark.usefixtures("strict_jax")]

HOPPER = Plan(strategy="tiled", backend="hopper")
# A tile of both warpgroups' and one of each one's own, of two weights and of one.
WIDE = Plan(strategy="tiled", backend="hopper", up=Tiles(m=128, n=128, k=64), down=Tiles(m=128, n=256, k=64))
OWN = Plan(strategy="tiled", backend="hopper", up=Tiles(m=128, n=64, k=64), down=Tiles(m=128, n=128, k=64))
SHAPES = [(500, 264, 520, 136), (1, 64, 64, 64), (1025, 512, 768, 640), (129, 8, 1000, 24)]
# So many tiles that the backward takes wide ones too; as in the first, an even number of rows of them: clusters of two.
LARGE = (2200, 1096, 2104, 1032)
# (shape, gated, save): as few steps as pass through each kernel at each shape's edges.
STEPS = [
    (LARGE, True, "preact"),
    (LARGE, False, "hidden"),
    (SHAPES[0], True, "hidden"),
    (SHAPES[0], False, "preact"),
    (SHAPES[1], False, "hidden"),
    (SHAPES[2], True, "preact"),
    (SHAPES[3], True, "hidden"),
]


def layer(shape, plan, *, gated=False):
    biases = "ugd" if gated else "ud"
    drawn = draw(shape, activation="silu", gated=gated, biases=biases, dtype="bfloat16", plan=plan, judged=False)
    given = operands(drawn.arrays)
    return given.pop("x"), given | {"activation": "silu", "plan": plan}


@pytest.mark.parametrize(("shape", "gated", "save"), STEPS)
def test_gradients_have_the_bits_of_portable(shape, gated, save):
    # Without biases: their gradients are the portable kernels' anyway.
    drawn = draw(
        shape, activation="silu" if gated else "gelu", gated=gated, dtype="bfloat16", plan=HOPPER, judged=False
    )  # fmt: skip
    found, want = gradients(drawn, save), gradients(replace(drawn, plan=Plan()), save)
    assert found.keys() == want.keys()
    assert [name for name in want if found[name].tobytes() != want[name].tobytes()] == []


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(
    ("activation", "save"), [(name, "preact") for name in ACTIVATIONS] + [("silu", "hidden"), ("gelu", "hidden")]
)
def test_the_hidden_gradient_has_the_bits_of_portable(activation, save, gated):
    m, _, h, n = SHAPES[0]
    rng = np.random.default_rng(m)

    def normal(*shape, scale=1.0):
        return jnp.asarray(rng.normal(scale=scale, size=shape), "bfloat16")

    # As far as the activations' ends.
    saved = {name: normal(m, h, scale=5.0) for name in ("s", *("u",) * gated, *("h",) * (save == "hidden"))}
    dy, w = normal(m, n), normal(h, n)
    options = {"activation": activation, "precision": "ieee"}
    found, want = (
        jax.jit(partial(launches.hidden_bwd, device_of(dy), **options, **order))(dy, w, saved)
        for launches, order in ((launch_tiled_hopper, {}), (launch_tiled_portable, {"order": Order.FUSED}))
    )
    assert found.keys() == want.keys()
    assert [name for name in want if found[name].tobytes() != want[name].tobytes()] == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bits_of_portable(activation, gated, dtype):
    biases = "ugd" if gated else "ud"
    drawn = draw(SHAPES[0], activation=activation, gated=gated, biases=biases, dtype=dtype, plan=HOPPER)

    def hidden(drawn):
        """Without y, and so without its kernel: it is the same for all."""

        def run(given):
            found = functional.stages(**given, **drawn.options)
            return {name: value for name, value in found.items() if name != "y"}

        return {name: np.asarray(value) for name, value in jax.jit(run)(operands(drawn.arrays)).items()}

    found = hidden(drawn)
    drawn.check(found)
    assert same(found, hidden(replace(drawn, plan=Plan())))


@pytest.mark.parametrize(
    ("shape", "gated", "dtype"),
    [(shape, True, "bfloat16") for shape in SHAPES] + [(SHAPES[0], False, "float16")],
)
def test_tiles_leave_the_bits(shape, gated, dtype):
    biases = "ugd" if gated else "ud"
    drawn = draw(shape, activation="gelu_tanh", gated=gated, biases=biases, dtype=dtype, plan=Plan())
    want = run(drawn)
    drawn.check(want)
    for plan in (HOPPER, OWN, WIDE if gated else replace(WIDE, up=WIDE.down)):
        assert same(run(replace(drawn, plan=plan)), want), plan


def test_an_order_of_tiles_leaves_the_bits(monkeypatch):
    drawn = draw((2200, 264, 520, 136), activation="silu", dtype="bfloat16", plan=HOPPER, judged=False)
    want = gradients(drawn, "preact")
    monkeypatch.setattr(launch_tiled_hopper, "tiling_for", lambda *asked: replace(tiling_for(*asked), group_m=5))
    jax.clear_caches()
    found = gradients(drawn, "preact")
    jax.clear_caches()
    assert [name for name in want if found[name].tobytes() != want[name].tobytes()] == []


@pytest.mark.parametrize("m", [1, 129])
def test_a_row_has_the_same_bits_in_any_batch(m):
    x, given = layer((8192, 512, 1024, 512), HOPPER, gated=True)
    want = np.asarray(fused_mlp(x, **given))[5 : 5 + m]
    assert np.asarray(fused_mlp(x[5 : 5 + m], **given)).tobytes() == want.tobytes()


@pytest.mark.parametrize("plan", [WIDE, OWN], ids=["shared", "own"])
def test_a_scan_over_layers_gives_the_same_bytes_each_time(plan):
    x, given = layer((2048, 1024, 2048, 1024), plan, gated=True)
    options = {"activation": given.pop("activation")}
    del given["plan"]
    layers = jax.tree.map(lambda a: jnp.stack([a, a[::-1], a]), given)

    @partial(jax.jit, static_argnums=1)
    def model(x, plan):
        def step(x, layer):
            return fused_mlp(x, **layer, **options, plan=plan), None

        return jax.lax.scan(step, x, layers)[0]

    want = np.asarray(model(x, Plan())).tobytes()
    assert all(np.asarray(model(x, plan)).tobytes() == want for _ in range(50))

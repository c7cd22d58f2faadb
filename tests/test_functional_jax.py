"""fused_mlp in jax: layouts, transformations, gradients, explain, and errors before any launch."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapter_jax import operands, run
from jax.test_util import check_grads
from yardstick import PLANS, draw

from jaxfused import functional, launch, reference
from jaxfused.functional import explain, fused_mlp, stages
from parity.contract.errors import UnsupportedError
from parity.contract.plan import LIBRARY, Plan, Strategy
from parity.contract.problem import Device

pytestmark = pytest.mark.usefixtures("strict_jax")

GPU = jax.default_backend() == "gpu"


def sound(**fields):
    drawn = draw((12, 21, 34, 13), activation="silu", gated=True, biases="ugd", **fields)
    return drawn, operands(drawn.arrays)


@pytest.mark.parametrize("lead", [(12,), (3, 4), (2, 3, 2, 1)])
def test_leading_dims(lead):
    drawn, given = sound()
    y = fused_mlp(**given | {"x": given["x"].reshape(*lead, 21)}, **drawn.options)
    assert y.shape == (*lead, 13)
    drawn.check({"y": np.asarray(y.reshape(12, 13))})


def test_one_vector():
    drawn, given = sound()
    y = fused_mlp(**given | {"x": given["x"][3]}, **drawn.options)
    one = draw((1, 21, 34, 13), activation="silu", gated=True, biases="ugd")
    assert y.shape == (13,)
    expected, bound = drawn.oracle.rounded["y"][3], drawn.bounds()["y"]
    assert (np.abs(np.asarray(y) - expected) <= bound.stat[3]).all()
    assert one.problem.m == 1


@pytest.mark.parametrize("lead", [(0,), (4, 0)])
def test_empty_batch(lead):
    drawn, given = sound()
    found = stages(**given | {"x": jnp.zeros((*lead, 21))}, **drawn.options)
    assert {name: value.shape for name, value in found.items()} == {
        "s": (*lead, 34), "u": (*lead, 34), "h": (*lead, 34), "y": (*lead, 13),
    }  # fmt: skip


def test_transformations_change_nothing():
    drawn, given = sound()
    plain = run(drawn)["y"]
    assert np.array_equal(jax.jit(lambda held: fused_mlp(**held, **drawn.options))(given), plain)
    rest = {name: array for name, array in given.items() if name != "x"}
    batch = given["x"].reshape(3, 4, 21)
    mapped = jax.vmap(lambda x: fused_mlp(x, **rest, **drawn.options))(batch).reshape(12, 13)
    drawn.check({"y": np.asarray(mapped)})
    _, scanned = jax.lax.scan(lambda carry, x: (carry, fused_mlp(x, **rest, **drawn.options)), None, batch)
    drawn.check({"y": np.asarray(scanned.reshape(12, 13))})


def test_vmap_over_weights():
    """Experts: each has weights of its own."""
    drawn, given = sound()
    scale = jnp.array([1.0, 2.0, -1.0])
    downs = scale[:, None, None] * given["w_down"][None]
    rest = {name: array for name, array in given.items() if name not in ("w_down", "b_down")}
    found = jax.vmap(lambda w_down: fused_mlp(**rest, w_down=w_down, **drawn.options))(downs)
    one = fused_mlp(**rest, w_down=given["w_down"], **drawn.options)
    # Powers of two scale without rounding.
    assert np.array_equal(found, scale[:, None, None] * one[None])


def test_numpy_operands():
    drawn, given = sound()
    assert np.array_equal(fused_mlp(**drawn.arrays, **drawn.options), fused_mlp(**given, **drawn.options))


NAMES = ("x", "w_up", "w_down", "w_gate", "b_up", "b_gate", "b_down")


def test_gradients_are_the_references():
    drawn, given = sound()
    upstream = jax.random.normal(jax.random.key(0), (12, 13))

    def loss(mlp):
        return lambda held: (mlp(**held, activation="silu") * upstream).sum()

    with jax.numpy_rank_promotion("allow"):
        found = jax.jit(jax.grad(loss(fused_mlp)))(given)
        want = jax.jit(jax.grad(loss(reference.mlp)))(given)
        value, pullback = jax.vjp(lambda held: fused_mlp(**held, activation="silu"), given)
        again = pullback(upstream)[0]
    assert tuple(sorted(found)) == tuple(sorted(NAMES))
    for name in NAMES:
        assert np.asarray(want[name]).any()
        # The same operations; the two compilations may fuse them otherwise, a rounding or two an element.
        size = np.abs(np.asarray(want[name])).max()
        assert np.abs(np.asarray(found[name] - want[name])).max() <= size * 2.0**-20, name
        assert np.abs(np.asarray(again[name] - want[name])).max() <= size * 2.0**-20, name
    drawn.check({"y": np.asarray(value)}, fused=False)


def test_gradient_of_the_function_itself():
    """Central differences in float64, of the function the reference is."""
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        given = {name: jnp.asarray(array, jnp.float64) for name, array in sound()[0].arrays.items()}
        check_grads(
            lambda *held: reference.mlp(**dict(zip(given, held, strict=True)), activation="gelu_tanh"),
            tuple(given.values()), order=1, modes=["rev"],
        )  # fmt: skip


def test_library_plan_has_the_references_gradients():
    _, given = sound()
    with jax.numpy_rank_promotion("allow"):
        gradient = jax.grad(lambda held: fused_mlp(**held, plan=LIBRARY).sum())(given)
    assert np.asarray(gradient["w_up"]).any()


def test_library_plan_is_the_reference():
    drawn, given = sound()
    with jax.numpy_rank_promotion("allow"):
        found = stages(**given, activation="silu", plan=LIBRARY)
        want = jax.jit(lambda held: reference.stages(**held, activation="silu"))(given)
    assert all(np.array_equal(found[stage], want[stage]) for stage in want)
    drawn.check({stage: np.asarray(array) for stage, array in found.items()}, fused=False)


@pytest.fixture
def silent(monkeypatch):
    """Nothing may be launched."""

    def forward(*args, **kwargs):
        raise AssertionError("launched")

    monkeypatch.setattr(launch, "forward", forward)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("ask", [fused_mlp, stages, explain, jax.jit(fused_mlp)])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": (12, 20)}, "w_up has shape [21, 34]: its in dim (0) is 21, x's last dim is 20; it must be [in, out]"),
        (
            {"w_down": (13, 34)},
            "w_down has shape [13, 34]: its in dim (0) is 13, w_up's out dim is 34; it must be [in, out]",
        ),
        ({"w_gate": (34, 21)}, "w_gate has shape [34, 21], must be w_up's [21, 34]"),
        ({"w_gate": None}, "b_gate is given without w_gate"),
        ({"b_down": (34,)}, "b_down has shape [34], must be [13]"),
        ({"x": ()}, "x is a scalar, must be [..., in_features]"),
    ],
)
def test_errors_before_any_launch(ask, changed, message):
    given = sound()[1]
    changed = {name: value if value is None else jnp.zeros(value) for name, value in changed.items()}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        ask(**given | changed)


@pytest.mark.usefixtures("silent")
def test_more_errors_before_any_launch():
    given = sound()[1]
    with pytest.raises(ValueError, match=r"^w_gate is float16 and x is float32: all operands must share one dtype"):
        fused_mlp(**given | {"w_gate": given["w_gate"].astype(jnp.float16)})
    with pytest.raises(
        ValueError, match=r"^activation is 'swish', must be one of relu, relu2, gelu, gelu_tanh, quick_gelu"
    ):
        fused_mlp(**given, activation="swish")
    with pytest.raises(ValueError, match=r"^precision is 'fp8', must be one of ieee, tf32"):
        fused_mlp(**given, precision="fp8")
    with pytest.raises(ValueError, match=r"^dtype is int32, the kernels take float32, float16, bfloat16; cast x and"):
        fused_mlp(**{name: array.astype(jnp.int32) for name, array in given.items()})
    with jax.enable_x64(True), pytest.raises(ValueError, match=r"^dtype is float64, the kernels take float32,"):
        fused_mlp(**{name: array.astype(jnp.float64) for name, array in given.items()})


@pytest.mark.usefixtures("silent")
def test_bfloat16_is_refused_in_the_interpreter():
    given = {name: array.astype(jnp.bfloat16) for name, array in sound()[1].items()}
    if GPU:
        pytest.skip("not an interpreter")
    with pytest.raises(UnsupportedError, match=r"^bfloat16 is silently wrong in Triton's interpreter"):
        fused_mlp(**given)
    with pytest.raises(UnsupportedError, match=r"^plan tiled/portable cannot run here: bfloat16 is silently wrong"):
        fused_mlp(**given, plan=Plan())
    drawn = draw((12, 21, 34, 13), activation="silu", gated=True, biases="ugd", dtype="bfloat16")
    with jax.numpy_rank_promotion("allow"):
        y = fused_mlp(**operands(drawn.arrays), activation="silu", plan=LIBRARY)
    drawn.check({"y": np.asarray(y)}, fused=False)


WITHOUT = """
import jax.numpy as jnp, jaxfused
from parity.contract.plan import Plan
x, w = jnp.ones((2, 3)), jnp.eye(3)
print(jaxfused.fused_mlp(x, w, w, activation="relu").tolist(), jaxfused.explain(x, w, w).plan)
try:
    jaxfused.fused_mlp(x, w, w, plan=Plan())
except NotImplementedError as error:
    print(error)
"""


@pytest.mark.parametrize("value", [None, "", "0"])
def test_without_interpreter_or_gpu_the_library_runs_and_a_forced_plan_does_not(value):
    environment = dict(os.environ) | {"JAX_PLATFORMS": "cpu", "JAXFUSED_INTERPRET": value or ""}
    if value is None:
        del environment["JAXFUSED_INTERPRET"]
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]] library",
        "plan tiled/portable cannot run here: the kernels need an NVIDIA GPU or the interpreter, this is a CPU without "
        "one; set TRITON_INTERPRET=1 (torchfused) or JAXFUSED_INTERPRET=1 (jaxfused) before the import, or use the "
        "library plan",
    ]


def test_explain_tells_what_runs(monkeypatch):
    _, given = sound()
    ran = []
    forward = launch.forward
    monkeypatch.setattr(launch, "forward", lambda plan, *args, **kw: ran.append(plan) or forward(plan, *args, **kw))
    jax.clear_caches()
    told = explain(**given, activation="silu", plan=PLANS["split2"])
    fused_mlp(**given, activation="silu", plan=PLANS["split2"])
    assert ran == [told.plan]
    assert told.plan.strategy is Strategy.TILED
    assert told.launches == 2
    assert "fused MLP [12, 21] -> 34 -> 13, gated silu, float32 (ieee)" in str(told)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", np.ones((3, 8)), "w_up is float32 and x is float64: all operands must share one dtype"),
        ("x", [[1.0] * 8], "x is a list, must be an array of jax or numpy"),
        ("w_up", None, "w_up is a NoneType, must be an array of jax or numpy"),
    ],
)
def test_nothing_is_cast_in_silence(name, value, message):
    arguments = {"x": np.ones((3, 8)), "w_up": np.ones((8, 16)), "w_down": np.ones((16, 4))}
    arguments = {key: array.astype(np.float32) for key, array in arguments.items()} | {name: value}
    with pytest.raises(ValueError, match=f"^{message}"):
        fused_mlp(**arguments)


def test_explain_tells_what_runs_under_differentiation(monkeypatch):
    arguments = {"x": jnp.ones((3, 8)), "w_up": jnp.ones((8, 16)), "w_down": jnp.ones((16, 4))}
    # The interpreter's automatic plan is the fused one, differentiated or not; a GPU's may be another.
    assert "under differentiation" not in explain(**arguments).why
    gpu = Device(kind="gpu", name="NVIDIA H200", sm_count=132, smem_bytes=232448, capability=(9, 0), library="xla")
    monkeypatch.setattr(functional, "device_of", lambda x: gpu)
    told = explain(**{name: a.astype(jnp.bfloat16) for name, a in arguments.items()})
    assert told.plan.strategy == "tiled"
    assert "; under differentiation library runs: gradients are wanted" in told.why
    assert explain(**arguments, plan=LIBRARY).why == "forced by the caller"


def test_the_library_plan_serves_forward_mode():
    x, w_up, w_down = jnp.ones((3, 8)), jnp.ones((8, 16)), jnp.ones((16, 4))
    found = jax.jvp(lambda x: fused_mlp(x, w_up, w_down, plan=LIBRARY), (x,), (x,))
    expected = jax.jvp(lambda x: reference.mlp(x, w_up, w_down), (x,), (x,))
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))

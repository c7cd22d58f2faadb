"""FusedMLP in Flax NNX: what it holds, what loads into it, and what it computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapter_jax import operands, run
from flax import nnx
from yardstick import draw

from jaxfused import FusedMLP, fused_mlp, reference
from parity.contract.errors import UnsupportedError

pytestmark = pytest.mark.usefixtures("strict_jax")


def loaded(**fields):
    """A module with a Draw's weights, and the Draw."""
    gated, activation = fields.get("gated", False), fields.get("activation", "gelu_tanh")
    drawn = draw((12, 21, 34, 13), biases="ugd" if gated else "ud", **fields)
    module = FusedMLP(21, 34, 13, activation=activation, gated=gated, rngs=nnx.Rngs(0))
    held = operands(drawn.arrays)
    x = held.pop("x")
    state: dict = {}
    for name, array in held.items():
        state.setdefault(f"{name[2:]}_proj", {})[{"w": "kernel", "b": "bias"}[name[0]]] = array
    nnx.update(module, state)
    return module, x, drawn


@pytest.mark.parametrize(("gated", "activation"), [(False, "gelu_tanh"), (True, "silu"), (True, "gelu")])
def test_computes_with_the_weights_it_loaded(gated, activation):
    module, x, drawn = loaded(gated=gated, activation=activation)
    y = np.asarray(module(x))
    drawn.check({"y": y})
    assert y.tobytes() == run(drawn)["y"].tobytes()
    assert np.array_equal(nnx.jit(lambda m, x: m(x))(module, x), y)


def test_names_and_shapes_are_a_checkpoints():
    held = nnx.to_pure_dict(nnx.state(FusedMLP(6, 10, gated=True, rngs=nnx.Rngs(0))))
    assert jax.tree.map(jnp.shape, held) == {
        "up_proj": {"kernel": (6, 10), "bias": (10,)},
        "gate_proj": {"kernel": (6, 10), "bias": (10,)},
        "down_proj": {"kernel": (10, 6), "bias": (6,)},
    }
    bare = nnx.to_pure_dict(nnx.state(FusedMLP(6, 10, 4, use_bias=False, rngs=nnx.Rngs(0))))
    kernels = {name: [key for key, value in child.items() if value is not None] for name, child in bare.items()}
    assert kernels == {"up_proj": ["kernel"], "down_proj": ["kernel"]}
    assert bare["down_proj"]["kernel"].shape == (10, 4)


@pytest.mark.parametrize("child", ["up_proj", "gate_proj", "down_proj"])
def test_a_childs_bias_can_go(child):
    module, x, drawn = loaded(gated=True, activation="silu")
    getattr(module, child).bias = None
    name = f"b_{child.removesuffix('_proj')}"
    rest = {key: array for key, array in operands(drawn.arrays).items() if key != name}
    found = np.asarray(module(x))
    assert np.array_equal(found, fused_mlp(**rest, activation="silu"))
    assert not drawn.accepts({"y": found})


def test_dtype_is_computed_in_and_param_dtype_stored():
    module = FusedMLP(6, 10, gated=True, dtype=jnp.float16, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(module))} == {jnp.dtype("float32")}
    x = jnp.linspace(-1.0, 1.0, 12).reshape(2, 6)
    y = module(x)
    assert y.dtype == jnp.float16
    half = {
        name: value.astype(jnp.float16)
        for name, value in {
            "x": x, "w_up": module.up_proj.kernel[...], "w_gate": module.gate_proj.kernel[...],
            "w_down": module.down_proj.kernel[...],
        }.items()
    }  # fmt: skip
    zeros = {
        "b_up": jnp.zeros(10, jnp.float16),
        "b_gate": jnp.zeros(10, jnp.float16),
        "b_down": jnp.zeros(6, jnp.float16),
    }
    assert np.array_equal(y, fused_mlp(**half, **zeros))
    # None: what x and the parameters promote to.
    stored = FusedMLP(6, 10, param_dtype=jnp.float16, rngs=nnx.Rngs(0))
    assert stored(x.astype(jnp.float16)).dtype == jnp.float16
    with jax.numpy_dtype_promotion("standard"):
        assert stored(x).dtype == jnp.float32


def test_every_parameter_gets_the_references_gradient():
    module, x, _ = loaded(gated=True, activation="silu")

    def of_reference(m, x):
        c = {role: getattr(m, f"{role}_proj") for role in ("up", "gate", "down")}
        weights = {f"w_{role}": child.kernel[...] for role, child in c.items()}
        biases = {f"b_{role}": child.bias[...] for role, child in c.items()}
        return jnp.square(reference.mlp(x, **weights, **biases, activation="silu")).sum()

    with jax.numpy_rank_promotion("allow"):
        found = nnx.to_pure_dict(nnx.grad(lambda m, x: jnp.square(m(x)).sum())(module, x))
        want = nnx.to_pure_dict(nnx.grad(of_reference)(module, x))
    assert jax.tree.structure(found) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        assert np.asarray(b).any()
        # The same operations, compiled apart: a rounding or two an element.
        assert np.abs(np.asarray(a - b)).max() <= np.abs(np.asarray(b)).max() * 2.0**-20


class Adapter(nnx.Linear):
    """What LoRA puts in a Linear's place."""


@pytest.mark.parametrize("child", ["up_proj", "gate_proj", "down_proj"])
def test_a_child_that_is_no_plain_linear_is_refused(child):
    module, x, _ = loaded(gated=True)
    plain = getattr(module, child)
    setattr(module, child, Adapter(plain.in_features, plain.out_features, rngs=nnx.Rngs(0)))
    with pytest.raises(
        UnsupportedError, match=f"^{child} is Adapter: a fused MLP reads a plain nnx.Linear's weights and"
    ):
        module(x)
    setattr(module, child, nnx.LoRALinear(plain.in_features, plain.out_features, lora_rank=2, rngs=nnx.Rngs(0)))
    with pytest.raises(UnsupportedError, match=f"^{child} is LoRALinear: .*merge the adapter into the weights"):
        module.explain(x)


def test_unknown_activation_is_refused_at_once():
    with pytest.raises(ValueError, match=r"^activation is 'swiglu', must be one of relu, relu2, gelu, gelu_tanh,"):
        FusedMLP(6, 10, activation="swiglu", rngs=nnx.Rngs(0))


def test_explain_and_tf32():
    module, x, _ = loaded(gated=True)
    module.precision = "tf32"
    told = module.explain(x)
    assert told.problem.precision == "tf32"
    assert "gated gelu_tanh, float32 (tf32)" in str(told)
    draw((12, 21, 34, 13), biases="ugd", gated=True, precision="tf32").check({"y": np.asarray(module(x))})

"""FusedMLP in Linen: the NNX module's parameters under the NNX module's names, and its results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from yardstick import draw

from jaxfused import FusedMLP, linen

pytestmark = pytest.mark.usefixtures("strict_jax")


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(("gated", "activation"), [(False, "gelu"), (True, "silu")])
def test_equals_nnx_bit_for_bit(gated, activation, use_bias):
    options = {"activation": activation, "gated": gated, "use_bias": use_bias}
    x = jax.random.normal(jax.random.key(1), (3, 4, 6))
    module = linen.FusedMLP(6, 10, 5, **options)
    params = module.init(jax.random.key(0), x)["params"]
    # Biases start at zero: make them count.
    params = jax.tree.map(lambda p: p + 0.25 if p.ndim == 1 else p, params)
    twin = FusedMLP(6, 10, 5, **options, rngs=nnx.Rngs(0))
    nnx.update(twin, params)
    y = module.apply({"params": params}, x)
    assert np.array_equal(y, twin(x))
    assert np.array_equal(jax.jit(module.apply)({"params": params}, x), y)
    assert np.asarray(y).std() > 0


def test_parameters_are_denses():
    x = jnp.ones((2, 6))
    params = linen.FusedMLP(6, 10, gated=True).init(jax.random.key(0), x)["params"]
    with jax.numpy_rank_promotion("allow"):
        dense = nn.Dense(10).init(jax.random.key(0), x)["params"]
    assert set(params) == {"up_proj", "gate_proj", "down_proj"}
    for child in params.values():
        assert set(child) == set(dense)
    assert params["down_proj"]["kernel"].shape == (10, 6)
    # lecun_normal: variance 1 / fan in.
    wide = linen.FusedMLP(400, 300).init(jax.random.key(0), jnp.ones((1, 400)))["params"]["up_proj"]["kernel"]
    assert abs(float(wide.std()) * 400**0.5 - 1.0) < 6 * (2 * 400 * 300) ** -0.5


def test_within_bounds_of_the_oracle():
    drawn = draw((12, 21, 34, 13), activation="silu", gated=True, biases="ugd")
    params: dict = {}
    for name, array in drawn.arrays.items():
        if name != "x":
            params.setdefault(f"{name[2:]}_proj", {})[{"w": "kernel", "b": "bias"}[name[0]]] = jnp.asarray(array)
    module = linen.FusedMLP(21, 34, 13, activation="silu", gated=True)
    drawn.check({"y": np.asarray(module.apply({"params": params}, jnp.asarray(drawn.arrays["x"])))})


def test_trains_through_the_library():
    x = jax.random.normal(jax.random.key(1), (12, 6))
    module = linen.FusedMLP(6, 10, gated=True)
    params = module.init(jax.random.key(0), x)
    with jax.numpy_rank_promotion("allow"):
        loss = jax.jit(jax.value_and_grad(lambda params: jnp.square(module.apply(params, x)).mean()))
        before, gradient = loss(params)
        after, _ = loss(jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient))
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))
    assert after < before


def test_dtype_and_refusals():
    x = jnp.ones((2, 6))
    module = linen.FusedMLP(6, 10, dtype=jnp.float16)
    params = module.init(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert module.apply(params, x).dtype == jnp.float16
    with pytest.raises(ValueError, match=r"^activation is 'swiglu', must be one of relu,"):
        linen.FusedMLP(6, 10, activation="swiglu").init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"x's last dim is 5"):
        module.apply(params, jnp.ones((2, 5)))

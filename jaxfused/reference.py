"""The unfused MLP in plain jax: the ``library`` plan, the baseline of the bench, and a yardstick of parity."""

from collections.abc import Callable

import jax
from jax import Array, lax
from jax import numpy as jnp

from parity.contract.activations import check_activation

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "relu2": lambda s: jnp.square(jax.nn.relu(s)),
    "gelu": lambda s: jax.nn.gelu(s, approximate=False),
    "gelu_tanh": lambda s: jax.nn.gelu(s, approximate=True),
    "quick_gelu": lambda s: s * jax.nn.sigmoid(1.702 * s),
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "identity": lambda s: s,
}


def mlp(
    x: Array,
    w_up: Array,
    w_down: Array,
    *,
    w_gate: Array | None = None,
    b_up: Array | None = None,
    b_gate: Array | None = None,
    b_down: Array | None = None,
    activation: str = "gelu_tanh",
    precision: str = "ieee",
) -> Array:
    """``y`` as ``fused_mlp`` gives it, by dots and the activations of jax. Differentiable."""
    return stages(
        x, w_up, w_down, w_gate=w_gate, b_up=b_up, b_gate=b_gate, b_down=b_down,
        activation=activation, precision=precision,
    )["y"]  # fmt: skip


def gradients(
    dy: Array,
    x: Array,
    w_up: Array,
    w_down: Array,
    *,
    w_gate: Array | None = None,
    b_up: Array | None = None,
    b_gate: Array | None = None,
    b_down: Array | None = None,
    activation: str = "gelu_tanh",
    precision: str = "ieee",
) -> dict[str, Array]:
    """The gradients of ``mlp`` by jax.vjp for the upstream ``dy``: "d_<operand>" for each operand given."""
    given = {"x": x, "w_up": w_up, "w_down": w_down, "w_gate": w_gate, "b_up": b_up, "b_gate": b_gate, "b_down": b_down}
    leaves = {name: a for name, a in given.items() if a is not None}
    _, pull = jax.vjp(lambda leaves: mlp(**leaves, activation=activation, precision=precision), leaves)
    return {f"d_{name}": gradient for name, gradient in pull(dy)[0].items()}


def stages(
    x: Array,
    w_up: Array,
    w_down: Array,
    *,
    w_gate: Array | None = None,
    b_up: Array | None = None,
    b_gate: Array | None = None,
    b_down: Array | None = None,
    activation: str = "gelu_tanh",
    precision: str = "ieee",
) -> dict[str, Array]:
    """Every intermediate of ``mlp``: "s" (the activation's argument), "u" (the other factor, when gated), "h", "y"."""
    check_activation(activation)
    act = ACTIVATIONS[activation]
    u = _linear(x, w_up, b_up, precision)
    if w_gate is None:
        taps = {"s": u}
        h = act(u)
    else:
        s = _linear(x, w_gate, b_gate, precision)
        taps = {"s": s, "u": u}
        h = act(s) * u
    return taps | {"h": h, "y": _linear(h, w_down, b_down, precision)}


def _linear(x: Array, w: Array, b: Array | None, precision: str) -> Array:
    # XLA's default precision is tf32 for float32 on a GPU; for 16-bit types a higher one takes a slow path.
    highest = precision == "ieee" and x.dtype == jnp.float32
    y = jnp.matmul(x, w, precision=lax.Precision.HIGHEST if highest else lax.Precision.DEFAULT)
    return y if b is None else y + jnp.broadcast_to(b, y.shape)

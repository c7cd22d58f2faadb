"""The JAX side of `parity tokens`, a process: ``python -m parity.tokens_jax DEVICE CONFIGS FOLDER FAULT``."""

import sys
from typing import Any

import numpy as np

from .cases import TILED
from .tokens_model import ATTENTION, MLP, RMS_EPSILON, Config, parameters
from .tokens_worker import Step, serve


def model(device: str, c: Config, fused: bool, wrong: bool) -> Step:
    """The model with its MLPs fused or not; ``wrong``: with another activation."""
    import jax
    import jax.numpy as jnp

    from jaxfused import fused_mlp, reference

    p = {name: jnp.asarray(a) for name, a in parameters(c).items()}
    shape = (c.depth, c.batch, c.heads, c.length, c.width // c.heads)
    state = {"cache": (jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))}
    activation = "relu" if wrong else "silu"
    highest = jax.lax.Precision.HIGHEST

    def normed(x: Any) -> Any:
        return x / jnp.sqrt((x * x).mean(axis=1, keepdims=True) + RMS_EPSILON)

    def mlp(p: dict[str, Any], x: Any, layer: int) -> Any:
        operands: dict[str, Any] = {name: p[f"{layer}.{name}"] for name in MLP}
        x = x.astype(operands["w_up"].dtype)
        if fused:
            return fused_mlp(x, **operands, activation=activation, plan=TILED).astype(jnp.float32)
        return reference.mlp(x, **operands, activation=activation).astype(jnp.float32)

    def attention(p: dict[str, Any], x: Any, layer: int, position: Any, keys: Any, values: Any) -> Any:
        q, k, v, out = (p[f"{layer}.{name}"] for name in ATTENTION)
        heads = (c.batch, c.heads, c.width // c.heads)
        keys = keys.at[layer, :, :, position].set(jnp.dot(x, k, precision=highest).reshape(heads))
        values = values.at[layer, :, :, position].set(jnp.dot(x, v, precision=highest).reshape(heads))
        query = jnp.dot(x, q, precision=highest).reshape(heads)
        scores = (keys[layer] * query[:, :, None]).sum(axis=3) / heads[2] ** 0.5
        scores = jnp.where(jnp.arange(c.length) > position, -jnp.inf, scores)
        weights = jnp.exp(scores - scores.max(axis=2, keepdims=True))
        weights = weights / weights.sum(axis=2, keepdims=True)
        mixed = (weights[..., None] * values[layer]).sum(axis=2).reshape(c.batch, c.width)
        return jnp.dot(mixed, out, precision=highest), keys, values

    @jax.jit
    def advance(p: dict[str, Any], characters: Any, position: Any, keys: Any, values: Any) -> Any:
        x = p["embedding"][characters] + p["position"][position]
        for layer in range(c.depth):
            mixed, keys, values = attention(p, normed(x), layer, position, keys, values)
            x = x + mixed
            x = x + mlp(p, normed(x), layer)
        return jnp.dot(normed(x), p["head"], precision=highest), keys, values

    def step(characters: np.ndarray, position: int) -> np.ndarray:
        logits, *cache = advance(p, jnp.asarray(characters, jnp.int32), jnp.int32(position), *state["cache"])
        state["cache"] = (cache[0], cache[1])
        return np.asarray(logits)

    return step


RUNNERS = {
    "jaxfused": lambda device, c, wrong: model(device, c, True, wrong),
    "xla": lambda device, c, wrong: model(device, c, False, wrong),
}

if __name__ == "__main__":
    serve(RUNNERS, sys.argv[1:])

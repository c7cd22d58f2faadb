"""The JAX side of `parity train`, a process: ``python -m parity.train_jax DEVICE CONFIG FOLDER FAULT``."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .contract.plan import LIBRARY, Plan
from .train_model import ACTIVATIONS, BLOCKS, MOMENTUM, RMS_EPSILON, Config, batches, parameters
from .train_worker import Trained, serve


def train(device: str, c: Config, fused: bool, rate: float) -> Trained:
    """All steps by one plan."""
    import jax
    import jax.numpy as jnp

    from jaxfused import fused_mlp

    inputs, targets = (jnp.asarray(a) for a in batches(c))
    state = {"p": {name: jnp.asarray(a) for name, a in parameters(c).items()}}
    state["momentum"] = {name: jnp.zeros_like(value) for name, value in state["p"].items()}
    plan = Plan() if fused else LIBRARY
    highest = jax.lax.Precision.HIGHEST

    def block(p: dict[str, Any], x: Any, name: str) -> Any:
        normed = x / jnp.sqrt((x * x).mean(axis=1, keepdims=True) + RMS_EPSILON)
        operands = {operand: p[f"{name}.{operand}"].astype(c.dtype) for operand in BLOCKS[name]}
        y = fused_mlp(normed.astype(c.dtype), **operands, activation=ACTIVATIONS[name], plan=plan)
        return x + y.astype(jnp.float32)

    def loss_of(p: dict[str, Any], characters: Any, following: Any) -> Any:
        size = p["embedding"].shape[0]
        x = jnp.dot(jax.nn.one_hot(characters, size), p["embedding"], precision=highest).reshape(len(characters), -1)
        for name in BLOCKS:
            x = block(p, x, name)
        logits = jnp.dot(x, p["head"], precision=highest)
        chosen = (jax.nn.one_hot(following, size) * logits).sum(axis=1)
        return (jax.nn.logsumexp(logits, axis=1) - chosen).mean()

    @jax.jit
    def update(p: dict[str, Any], momentum: dict[str, Any], characters: Any, following: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(p, characters, following)
        momentum = {name: MOMENTUM * momentum[name] + gradients[name] for name in p}
        return loss, {name: p[name] - rate * momentum[name] for name in p}, momentum

    def step(i: int) -> Any:
        loss, state["p"], state["momentum"] = update(state["p"], state["momentum"], inputs[i], targets[i])
        return loss

    return Trained(
        step=step,
        value=lambda loss: float(loss),
        fetch=lambda: {name: np.asarray(value) for name, value in state["p"].items()},
    )


RUNNERS: dict[str, Callable[..., Trained]] = {
    "jaxfused": lambda device, c, rate: train(device, c, True, rate),
    "xla": lambda device, c, rate: train(device, c, False, rate),
}

if __name__ == "__main__":
    serve(RUNNERS, sys.argv[1:])

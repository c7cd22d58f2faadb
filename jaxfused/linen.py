"""FusedMLP, the Linen module: the same parameters under the same names."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from parity.contract.activations import check_activation
from parity.contract.plan import Plan

from . import functional
from .module import promote


class FusedMLP(nn.Module):
    """As jaxfused.FusedMLP. Parameters: ``{up_proj, gate_proj, down_proj}/{kernel, bias}``."""

    in_features: int
    hidden_features: int
    out_features: int | None = None
    activation: str = "gelu_tanh"
    gated: bool = False
    use_bias: bool = True
    precision: str = "ieee"
    save: str = "preact"
    plan: Plan | None = None
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b k"]) -> Float[Array, "*b n"]:
        check_activation(self.activation)
        out_features = self.in_features if self.out_features is None else self.out_features
        held = {"x": x} | self._linear("up", self.in_features, self.hidden_features)
        if self.gated:
            held |= self._linear("gate", self.in_features, self.hidden_features)
        held |= self._linear("down", self.hidden_features, out_features)
        options: dict[str, Any] = {"activation": self.activation, "precision": self.precision}
        options |= {"save": self.save, "plan": self.plan}
        return functional.fused_mlp(**promote(held, self.dtype), **options)

    def _linear(self, role: str, in_features: int, out_features: int) -> dict[str, Array | None]:
        child = _Parameters(in_features, out_features, self.use_bias, self.param_dtype, name=f"{role}_proj")
        kernel, bias = child()
        return {f"w_{role}": kernel, f"b_{role}": bias}


class _Parameters(nn.Module):
    """What nn.Dense holds, without the multiplication."""

    in_features: int
    out_features: int
    use_bias: bool
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self) -> tuple[Array, Array | None]:
        shape = (self.in_features, self.out_features)
        kernel = self.param("kernel", nn.linear.default_kernel_init, shape, self.param_dtype)
        if not self.use_bias:
            return kernel, None
        return kernel, self.param("bias", nn.initializers.zeros_init(), (self.out_features,), self.param_dtype)
